//! The effective configuration of a host, for people.

use std::path::PathBuf;
use std::time::Duration;

use super::config::{Config, Method, Strictness, effective};
use super::options::{SshOptions, SshTarget};
use crate::error::LaunchError;

/// How `ssh` would connect to `target`: the settings that matter here, a line each, `Keyword value`, as a configuration
/// file would have them, with their defaults filled in and their names expanded. For people who wonder why a connection
/// goes where it goes.
///
/// # Errors
/// When the configuration cannot be read or understood; the step is [`Step::Config`](crate::Step::Config).
///
/// Cancel safe: nothing is lost.
pub async fn describe(target: &SshTarget, options: &SshOptions) -> Result<Vec<String>, LaunchError> {
    Ok(effective(target, options).await?.lines())
}

impl Config {
    fn lines(&self) -> Vec<String> {
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        let seconds =
            |time: Option<Duration>| time.map_or("none".to_owned(), |time| time.as_secs().to_string());
        let paths =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        let one =
            |paths: &[PathBuf]| paths.first().map_or("none".to_owned(), |path| path.display().to_string());
        let strictness = match self.strictness {
            Strictness::Strict => "yes",
            Strictness::AcceptNew => "accept-new",
            Strictness::Off => "no",
        };
        let methods: Vec<&str> = self
            .methods
            .iter()
            .map(|method| match method {
                Method::PublicKey => "publickey",
                Method::KeyboardInteractive => "keyboard-interactive",
                Method::Password => "password",
            })
            .collect();
        let mut settings = vec![
            ("HostName", self.host.clone()),
            ("Port", self.port.to_string()),
            ("User", self.user.clone()),
            ("ConnectTimeout", seconds(self.connect_timeout)),
            ("ServerAliveInterval", seconds(self.alive_interval)),
            ("ServerAliveCountMax", self.alive_count_max.to_string()),
            ("Compression", yes(self.compression)),
            ("StrictHostKeyChecking", strictness.to_owned()),
            ("HashKnownHosts", yes(self.hash_known_hosts)),
            ("RevokedHostKeys", one(self.revoked_host_keys.as_slice())),
            ("IdentityAgent", one(self.agent.as_slice())),
            ("IdentitiesOnly", yes(self.identities_only)),
            ("PreferredAuthentications", methods.join(",")),
            ("NumberOfPasswordPrompts", self.prompts.to_string()),
        ];
        let many = |keyword, values: Vec<String>| values.into_iter().map(move |value| (keyword, value));
        settings.extend(many("ProxyJump", self.jumps.iter().map(ToString::to_string).collect()));
        settings.extend(many("ProxyCommand", self.proxy_command.iter().cloned().collect()));
        settings.extend(many("HostKeyAlias", self.host_key_alias.iter().cloned().collect()));
        settings.extend(many("UserKnownHostsFile", paths(&self.user_known_hosts)));
        settings.extend(many("GlobalKnownHostsFile", paths(&self.global_known_hosts)));
        settings.extend(many("IdentityFile", paths(&self.identity_files)));
        settings.extend(many("CertificateFile", paths(&self.certificate_files)));
        let algorithms = &self.algorithms;
        settings.extend(many("HostKeyAlgorithms", algorithms.host_key.iter().cloned().collect()));
        settings.extend(many("KexAlgorithms", algorithms.kex.iter().cloned().collect()));
        settings.extend(many("Ciphers", algorithms.cipher.iter().cloned().collect()));
        settings.extend(many("MACs", algorithms.mac.iter().cloned().collect()));
        settings.extend(many("CASignatureAlgorithms", algorithms.ca_signature.iter().cloned().collect()));
        settings.extend(many("PubkeyAcceptedAlgorithms", algorithms.public_key.iter().cloned().collect()));
        // Values may be secrets.
        let set = self.variables.set.iter().map(|variable| variable.name.clone()).collect();
        settings.extend(many("SetEnv", set));
        settings.extend(many("SendEnv", self.variables.send.clone()));
        settings.into_iter().map(|(keyword, value)| format!("{keyword} {value}")).collect()
    }
}
