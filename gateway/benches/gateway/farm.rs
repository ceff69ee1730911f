//! The servers of a measurement, and the configuration by which every contender reaches them.
#![allow(
    dead_code,
    reason = "each benchmark uses its own part of this, so expect would be unfulfilled in some"
)]

use std::path::{Path, PathBuf};

use farcall_test_support::{Sshd, TempHome};

/// What every contender and server agrees on, as the report says it: the fastest that is common, so that nobody's
/// defaults are compared (OpenSSH's own key exchange alone costs more than a start of ours).
pub(crate) const ALGORITHMS: &str = "curve25519-sha256, aes128-gcm";

/// The same, for the configuration.
const SETTINGS: &str =
    "  KexAlgorithms curve25519-sha256\n  Ciphers aes128-gcm@openssh.com\n  LogLevel ERROR\n";

/// Private servers on loopback, each with a cache of its own. They end when this is dropped.
pub(crate) struct Farm {
    _servers: Vec<Sshd>,
    home: TempHome,
}

impl Farm {
    pub(crate) fn start(count: usize) -> Self {
        let home = TempHome::new();
        let servers: Vec<Sshd> = (0..count)
            .map(|n| {
                let cache = cache(home.path(), n);
                std::fs::create_dir_all(&cache).expect("our own folder");
                // The home too, so that nobody's shell settings are measured.
                let variables = format!("SetEnv XDG_CACHE_HOME={0} HOME={0}", cache.display());
                Sshd::builder().option(variables).option("PrintMotd no").option("PrintLastLog no").start()
            })
            .collect();
        let blocks: String = servers
            .iter()
            .enumerate()
            .map(|(n, server)| format!("{}{SETTINGS}", server.config(&name(n))))
            .collect();
        home.write("config", &blocks);
        Self { _servers: servers, home }
    }

    /// The home folder of those who measure.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

/// The name of a server in the configuration.
pub(crate) fn name(n: usize) -> String {
    format!("b{n:02}")
}

/// The configuration file in a home.
pub(crate) fn config(home: &Path) -> PathBuf {
    home.join(".ssh/config")
}

/// Where a server's sessions keep delivered programs.
pub(crate) fn cache(home: &Path, n: usize) -> PathBuf {
    home.join("cache").join(name(n))
}
