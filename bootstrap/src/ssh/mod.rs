//! SSH: reaching a host as OpenSSH would, and running commands there.
//!
//! [`connect`] reads the configuration, passes jump hosts, checks the host's key and authenticates; [`Session::exec`]
//! runs a command on the connection. The protocol itself is a library's, and none of its types appear here.
//!
//! What is honoured of a configuration: HostName, User, Port, AddressFamily, BindAddress, ProxyJump, ProxyCommand,
//! ConnectTimeout, ServerAliveInterval and ServerAliveCountMax, Compression, SetEnv, SendEnv; IdentityFile, CertificateFile,
//! IdentitiesOnly, IdentityAgent, PreferredAuthentications, PubkeyAuthentication, PubkeyAcceptedAlgorithms, PasswordAuthentication,
//! KbdInteractiveAuthentication, NumberOfPasswordPrompts, BatchMode, RequiredRSASize; UserKnownHostsFile, GlobalKnownHostsFile,
//! StrictHostKeyChecking (`ask` means `yes`: nobody is asked), HostKeyAlias, HashKnownHosts, RevokedHostKeys,
//! CASignatureAlgorithms; HostKeyAlgorithms, KexAlgorithms, Ciphers, MACs. Other ways of authenticating, such as
//! Kerberos and keys in hardware without an agent, are the system `ssh`'s, which can be used as a command instead; so is
//! KnownHostsCommand and BindInterface, which are errors here, and ForwardAgent, which is not done here and warned of.
//! NoHostAuthenticationForLocalhost and CheckHostIP are passed over, which errs on the safe side: this machine's keys are checked
//! like any other's, and by the name that was asked for alone.

mod agent;
mod algorithms;
mod auth;
mod auth_error;
mod clock;
mod config;
mod config_file;
mod config_jumps;
mod config_plain;
mod config_program;
mod connect;
mod describe;
mod dial;
mod ending;
mod exec;
mod expand;
mod gate;
mod handler;
mod host_key;
mod identity;
mod jumps;
mod key_length;
mod keyring;
mod known_hosts;
mod krl;
mod opening;
mod options;
mod pattern;
mod prompt;
mod proof;
mod pump;
mod remedy;
mod remember;
mod resolve;
mod session;
mod shared;
mod stream;
mod variables;

pub use connect::connect;
pub use describe::describe;
pub use dial::{DialError, DialFailure, Dialed, Dialer, tcp as dial_tcp};
pub use exec::{Exec, Process};
pub use gate::{Gate, HANDSHAKES};
pub use host_key::{CertificateProblem, HostKeyError, ShownKey};
pub use jumps::{JumpHosts, PASSENGERS};
pub use key_length::ShortKey;
pub use keyring::Keyring;
pub use options::{Answer, ConfigFiles, Prompter, Question, Secret, SshOptions, SshTarget, Watcher};
pub use pump::{ExecError, ExitStatus, Stderr, Stdin, Stdout};
pub use resolve::Family;
pub use session::Session;
