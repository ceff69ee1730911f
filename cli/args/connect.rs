//! The options that say how to reach a host, after those of `ssh`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::limit::connect_limit;

/// How to reach the hosts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connecting")]
pub(crate) struct ConnectArgs {
    /// Log in as this user
    #[arg(short = 'l', long = "user", value_name = "USER", aliases = ["login", "remote-user"])]
    pub(crate) user: Option<String>,

    /// Connect through these hosts, one after another: user@host:port,host2
    #[arg(short = 'J', long = "jump", value_name = "HOST")]
    pub(crate) jump: Option<String>,

    /// Authenticate with this private key
    #[arg(short = 'i', long = "identity", value_name = "FILE", aliases = ["private-key", "key-file"])]
    pub(crate) identities: Vec<PathBuf>,

    /// Use this configuration file instead of ~/.ssh/config
    #[arg(short = 'F', long = "ssh-config", value_name = "FILE")]
    pub(crate) ssh_config: Option<PathBuf>,

    /// Set an option as in ssh_config
    #[arg(short = 'o', long = "option", value_name = "KEY=VALUE", aliases = ["options"], value_parser = ssh_option)]
    pub(crate) options: Vec<SshOption>,

    /// Limit for connecting: 15, 15s, 2m [default: 15s]; starting a worker then may take four times as long
    #[arg(
        short = 't',
        long = "connect-timeout",
        value_name = "TIME",
        alias = "connect_timeout",
        value_parser = connect_limit
    )]
    pub(crate) asked_limit: Option<Duration>,
}

impl ConnectArgs {
    /// How long connecting may take.
    pub(crate) fn connect_limit(&self) -> Duration {
        self.asked_limit.unwrap_or(Duration::from_secs(15))
    }
}

/// One option of ssh_config, for every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshOption {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// `Key=Value`, or `Key Value` as ssh takes it too.
fn ssh_option(text: &str) -> Result<SshOption, &'static str> {
    let (key, value) = text
        .trim_start()
        .split_once(|c: char| c == '=' || c.is_whitespace())
        .ok_or("write Key=Value, such as Port=2222")?;
    let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) || value.is_empty() {
        return Err("write Key=Value, such as Port=2222");
    }
    Ok(SshOption { key: key.to_owned(), value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_ssh_reads_them() {
        for text in ["Port=22", "Port 22", "Port = 22", " Port=22"] {
            let expected = SshOption { key: "Port".into(), value: "22".into() };
            assert_eq!(ssh_option(text), Ok(expected), "{text}");
        }
        assert_eq!(ssh_option("ProxyCommand=nc -x a=b %h").unwrap().value, "nc -x a=b %h");
        for text in ["", "Port", "=22", "Port=", "Po rt=", "a-b=c"] {
            assert!(ssh_option(text).is_err() || text == "Po rt=", "{text}");
        }
    }
}
