//! From a host's name and the options of the command line to where a worker is started, and how it is reached.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use farcall::ssh::{ConfigFiles, SshOptions};
use farcall::{Program, Spec, SpecError};

use crate::args::connect::ConnectArgs;
use crate::environment::Environment;
use crate::hosts::Host;
use crate::prompt::Terminal;

/// How much longer than a connection the start of a worker may take: it may have to be delivered first.
const START_FACTOR: u32 = 4;

/// The lean worker that is delivered in place of this program, where it lies beside it.
const WORKER: &str = "farcall-worker";

/// Hosts that cannot be reached as was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// A host whose name is no place where a worker can be started.
    #[error("{host}: {source}")]
    Spec { host: String, source: SpecError },
    /// The configuration of `-F`.
    #[error("cannot read the SSH configuration {}: {source}", path.display())]
    Config { path: PathBuf, source: io::Error },
}

/// Looks for the files that options name, before the first host is asked, and says what will be missing.
///
/// # Errors
/// The configuration file cannot be read.
pub(crate) fn missing_files(connect: &ConnectArgs) -> Result<Vec<String>, PlaceError> {
    if let ConfigFiles::Only(path) = config_files(connect) {
        File::open(&path).map_err(|source| PlaceError::Config { path, source })?;
    }
    let missing = connect.identities.iter().filter_map(|path| {
        // What ssh would expand is left to ssh; an agent may hold the key of a public one.
        let text = path.to_string_lossy();
        let public = PathBuf::from(format!("{text}.pub"));
        if text.starts_with('~') || text.contains(['%', '$']) || public.exists() {
            return None;
        }
        let error = File::open(path).err()?;
        Some(format!("farcall: going on without the key {}: {error}", path.display()))
    });
    Ok(missing.collect())
}

/// Where each host's worker is started, in the order of the hosts; `labels` are the names under which they are shown.
///
/// # Errors
/// The first host that cannot be understood.
pub(crate) fn specs(hosts: &[Host], labels: &[Host], connect: &ConnectArgs) -> Result<Vec<Spec>, PlaceError> {
    hosts.iter().zip(labels).map(|(host, label)| spec(host, label, connect)).collect()
}

fn spec(host: &Host, label: &Host, connect: &ConnectArgs) -> Result<Spec, PlaceError> {
    let mut spec: Spec =
        host.spec().parse().map_err(|source| PlaceError::Spec { host: label.name().to_owned(), source })?;
    let text = spec.to_string();
    let (place, settings) = text.split_once('?').unwrap_or((&text, ""));
    // What a specification says of itself wins over the options, which are for all.
    let logs_in = ["ssh://", "openssh://"].iter().any(|scheme| place.starts_with(scheme));
    if let Some(user) = &connect.user
        && logs_in
        && !place.contains('@')
    {
        spec = spec.user(user);
    }
    if !settings.split('&').any(|setting| setting.starts_with("start_limit=")) {
        spec = spec.start_limit(connect.connect_limit() * START_FACTOR);
    }
    // Workers carry the name that people see, which is unique in a run, into lists of processes and logs.
    if spec.asked_id().is_none() {
        spec = spec.id(label.name());
    }
    Ok(spec)
}

fn config_files(connect: &ConnectArgs) -> ConfigFiles {
    match &connect.ssh_config {
        None => ConfigFiles::Usual,
        Some(file) if file.as_os_str() == "none" => ConfigFiles::None,
        Some(file) => ConfigFiles::Only(file.clone()),
    }
}

/// What is started on the hosts: the lean worker if there is a build for their platform beside this program, in the user's
/// folder of them or in the system's, and else this program.
///
/// # Errors
/// That this program's own file cannot be found.
pub(crate) fn program(environment: &Environment) -> io::Result<Program> {
    let program = Program::current()?.beside(WORKER);
    Ok(environment.workers.iter().fold(program, |program, folder| program.folder(folder)))
}

/// How all hosts of a run are reached over SSH. They share the gate for handshakes and the keys that were unlocked.
pub(crate) fn ssh(connect: &ConnectArgs, environment: &Environment) -> SshOptions {
    let mut settings: Vec<String> =
        connect.options.iter().map(|option| format!("{}={}", option.key, option.value)).collect();
    // What was asked for here comes before what a file says, which knows whole seconds only.
    settings
        .extend(connect.asked_limit.map(|limit| format!("ConnectTimeout={}", limit.as_secs_f64().ceil())));
    settings.extend(connect.jump.iter().map(|jump| format!("ProxyJump={jump}")));
    SshOptions {
        files: config_files(connect),
        settings,
        identity_files: connect.identities.clone(),
        home: environment.variables.get("HOME").map(Into::into),
        environment: environment.variables.clone(),
        limit: connect.connect_limit(),
        prompter: Some(Arc::new(Terminal)),
        ..SshOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::hosts::error::Source;
    use crate::hosts::{evaluate, groups::Groups, labels};

    #[derive(Debug, Parser)]
    struct Connect {
        #[command(flatten)]
        args: ConnectArgs,
    }

    fn connect(line: &str) -> ConnectArgs {
        Connect::parse_from(std::iter::once("x").chain(line.split_whitespace())).args
    }

    fn texts(hosts: &str, line: &str) -> Vec<String> {
        let hosts = evaluate(hosts, Source::Argument, &Groups::default()).unwrap();
        let hosts: Vec<Host> = hosts.iter().cloned().collect();
        specs(&hosts, &labels(&hosts), &connect(line)).unwrap().iter().map(Spec::to_string).collect()
    }

    #[test]
    fn options_reach_what_does_not_say_otherwise() {
        assert_eq!(
            texts("web1,ssh://me@web2,docker://box,local", "-l root -t 2"),
            [
                "docker://box?id=docker%3A//box&start_limit=8s",
                "local?id=local&start_limit=8s",
                "ssh://me@web2?id=ssh%3A//me%40web2&start_limit=8s",
                "ssh://root@web1?id=web1&start_limit=8s",
            ]
        );
        assert_eq!(
            texts("ssh://h?env.TOKEN=s3cret", ""),
            ["ssh://h?id=ssh%3A//h%3Fenv.TOKEN%3D%E2%80%A6&env.TOKEN=s3cret&start_limit=60s"],
            "a value of a variable is no part of the id, which everybody there can see"
        );
        assert_eq!(texts("ssh://h?start_limit=3&id=x", ""), ["ssh://h?id=x&start_limit=3s"]);
        assert_eq!(
            texts("2*local", ""),
            ["local?id=local%231&start_limit=60s", "local?id=local%232&start_limit=60s"]
        );
    }

    #[test]
    fn what_ssh_is_told() {
        let options = ssh(
            &connect("-J b1,b2 -i key -F none -o Port=2222 -o User=x -t 7"),
            &Environment { variables: [("HOME".into(), "/h".into())].into(), ..Environment::default() },
        );
        assert_eq!(options.settings, ["Port=2222", "User=x", "ConnectTimeout=7", "ProxyJump=b1,b2"]);
        assert_eq!(options.identity_files, [std::path::PathBuf::from("key")]);
        assert_eq!((options.files, options.limit), (ConfigFiles::None, Duration::from_secs(7)));
        assert_eq!(options.home, Some("/h".into()));
    }

    #[test]
    fn a_place_that_is_none_is_named() {
        let hosts = evaluate("nope://x", Source::Argument, &Groups::default()).unwrap();
        let hosts: Vec<Host> = hosts.iter().cloned().collect();
        let error = specs(&hosts, &labels(&hosts), &connect("")).unwrap_err().to_string();
        assert!(error.contains("nope://x"), "{error}");
        for wrong in ["ssh://h?env.A=s3cret&nice=x", "ssh://h?env.A=s3cret%", "nope://x?env.A=s3cret"] {
            let hosts = evaluate(wrong, Source::Argument, &Groups::default()).unwrap();
            let hosts: Vec<Host> = hosts.iter().cloned().collect();
            let error = specs(&hosts, &labels(&hosts), &connect("")).unwrap_err().to_string();
            assert!(error.contains("env.A=…") && !error.contains("s3cret"), "{error}");
        }
    }
}
