//! A server's key is accepted or refused exactly as OpenSSH does, whatever state the files are in.

mod ssh_client;

use std::fmt::Write as _;
use std::process::Command;

use farcall_bootstrap::ssh::{HostKeyError, SshOptions};
use farcall_bootstrap::{Class, LaunchError, Step};
use farcall_test_support::{Authority, Certify, KeyKind, KeyPair, Sshd, TempHome};
use ssh_client::{options, printed, reach, system_ssh};

/// A server, and keys that are not its own.
struct Scene {
    home: TempHome,
    sshd: Sshd,
    other: KeyPair,
    authority: Authority,
    stranger: Authority,
    /// The server's host key.
    key: KeyPair,
}

/// One state of the files.
struct Case<'a> {
    name: &'a str,
    /// The texts of known hosts files, in order.
    files: Vec<String>,
    /// Further lines of configuration.
    settings: &'a str,
    accepted: bool,
}

fn case<'a>(name: &'a str, accepted: bool, text: impl Into<String>) -> Case<'a> {
    Case { name, files: vec![text.into()], settings: "", accepted }
}

impl Scene {
    /// A server whose key has the certificate that `certify` describes, if any.
    fn new(certify: Option<Certify<'_>>) -> Self {
        Self::with(certify, KeyKind::Ed25519, KeyKind::Ed25519)
    }

    fn with(certify: Option<Certify<'_>>, kind: KeyKind, authority_kind: KeyKind) -> Self {
        let home = TempHome::new();
        let key = home.key("host", kind);
        let other = home.key("other", kind);
        let authority = Authority(home.key("authority", authority_kind));
        let stranger = Authority(home.key("stranger", KeyKind::Ed25519));
        if let Some(certify) = certify {
            authority.certify(&key, Certify { host: true, ..certify });
        }
        let sshd = Sshd::builder().given_host_key(&key).start();
        Self { home, sshd, other, authority, stranger, key }
    }

    fn name(&self) -> String {
        format!("[127.0.0.1]:{}", self.sshd.port())
    }

    /// Writes a configuration whose known hosts files stand in a folder of their own, and returns its options.
    fn configure(&self, folder: &str, case: &Case<'_>) -> (SshOptions, Vec<std::path::PathBuf>) {
        let mut known = String::new();
        let mut paths = Vec::new();
        for (n, text) in case.files.iter().enumerate() {
            let path = self.home.write(&format!("{folder}/known_{n}"), text);
            write!(known, " {}", path.display()).expect("memory");
            paths.push(path);
        }
        // Settings first: of two values the first wins.
        let config = format!(
            "Host server\n{}\n  HostName 127.0.0.1\n  Port {}\n  UserKnownHostsFile{known}\n  GlobalKnownHostsFile none\n  \
             StrictHostKeyChecking yes\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  CheckHostIP no\n  KexAlgorithms curve25519-sha256\n  \
             UpdateHostKeys no\n",
            case.settings,
            self.sshd.port(),
            self.sshd.client_key().path().display(),
        );
        (options(&self.home, &config), paths)
    }

    /// Asks both clients and checks that they agree, and that both are as expected.
    async fn check(&self, case: Case<'_>) -> Option<LaunchError> {
        let (theirs, their_files) = self.configure("theirs", &case);
        let farcall_bootstrap::ssh::ConfigFiles::Only(file) = &theirs.files else {
            unreachable!("set above")
        };
        let output = system_ssh(file, "server", &[]);
        let (ours, our_files) = self.configure("ours", &case);
        let result = reach("server", &ours).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), case.accepted, "ssh, {}: {said}", case.name);
        assert_eq!(result.is_ok(), case.accepted, "farcall, {}: {result:?}", case.name);
        // What they leave behind has the same lines, but for the salt of hashed names.
        for (theirs, ours) in their_files.iter().zip(&our_files) {
            let read = |path| {
                let text = std::fs::read_to_string(path).expect("written above");
                let hidden = |line: &str| match line.strip_prefix("|1|").and_then(|rest| rest.split_once(' '))
                {
                    Some((_, key)) => format!("hashed {key}"),
                    None => line.to_owned(),
                };
                text.lines().map(hidden).collect::<Vec<_>>()
            };
            assert_eq!(read(ours), read(theirs), "{}", case.name);
        }
        match result {
            Ok(session) => {
                assert_eq!(printed(&session, "echo in").await, "in\n", "{}", case.name);
                None
            }
            Err(e) => {
                assert_eq!((e.class(), e.step()), (Class::HostKey, Step::HostKey), "{}: {e}", case.name);
                Some(e)
            }
        }
    }
}

#[tokio::test]
async fn keys_that_are_shorter_than_asked_for() {
    let scene = Scene::with(None, KeyKind::Rsa, KeyKind::Rsa);
    let text = format!("{} {}\n", scene.name(), scene.key.public());
    let settings = |settings| Case { settings, ..case("2048 bits", true, text.clone()) };
    scene.check(settings("  RequiredRSASize 2048")).await;
    let short = Case { accepted: false, ..settings("  RequiredRSASize 3072") };
    let error = scene.check(short).await.expect("refused").to_string();
    assert!(error.contains("it has 2048 bits, and RequiredRSASize asks for 3072; give the host"), "{error}");
}

#[tokio::test]
async fn plain_keys() {
    let scene = Scene::new(None);
    let (name, key, other) = (scene.name(), scene.key.public(), scene.other.public());
    let port = scene.sshd.port();
    for case in [
        case("known", true, format!("{name} {key}\n")),
        case("unknown", false, ""),
        case("known for another host", false, format!("other {key}\n")),
        case("changed", false, format!("{name} {other}\n")),
        case("second key of a type", true, format!("{name} {other}\n{name} {key}\n")),
        case("tabs, spaces, comments", true, format!("# x\n\n  {name}\t {key}   comment # more\n")),
        case("list of names", true, format!("a,{name},b {key}\n")),
        case("no end of line", true, format!("{name} {key}")),
        case(
            "bad lines around it",
            true,
            format!("{name} nonsense\n@odd {name} {key}\n{name}\n{name} {key}\nx y z\n"),
        ),
        case("only a bad line", false, format!("{name} ssh-ed25519 AAAA\n")),
        case("without the port", true, format!("127.0.0.1 {key}\n")),
        case("another port", false, format!("[127.0.0.1]:1 {key}\n")),
        case("changed without the port", false, format!("127.0.0.1 {other}\n")),
        case("the port's key before the host's", false, format!("{name} {other}\n127.0.0.1 {key}\n")),
        case("wildcard", true, format!("[127.0.0.*]:{port} {key}\n")),
        case("wildcard for all", true, format!("* {key}\n")),
        case("question mark", true, format!("[127.?.0.1]:{port} {key}\n")),
        case("wildcard of others", false, format!("*.example.org {key}\n")),
        case("negated", false, format!("*,!{name},!127.0.0.1 {key}\n")),
        case("negated first", false, format!("!{name},!127.0.0.1,* {key}\n")),
        case("negation of another", true, format!("!other,{name} {key}\n")),
        case("revoked", false, format!("{name} {key}\n@revoked {name} {key}\n")),
        case("revoked for all", false, format!("{name} {key}\n@revoked * {key}\n")),
        case("revoked for another", true, format!("{name} {key}\n@revoked other {key}\n")),
        case("another key revoked", true, format!("{name} {key}\n@revoked * {other}\n")),
        case("an authority is no key", false, format!("@cert-authority * {key}\n")),
    ] {
        scene.check(case).await;
    }
}

#[tokio::test]
async fn several_files_aliases_and_hashes() {
    let scene = Scene::new(None);
    let (name, key, other) = (scene.name(), scene.key.public(), scene.other.public());
    let files =
        |name, accepted, files: [String; 2]| Case { name, files: files.into(), settings: "", accepted };
    scene.check(files("in the second file", true, [String::new(), format!("{name} {key}\n")])).await;
    scene.check(files("in both", true, [format!("{name} {other}\n"), format!("{name} {key}\n")])).await;
    scene
        .check(files(
            "revoked in the second",
            false,
            [format!("{name} {key}\n"), format!("@revoked * {key}\n")],
        ))
        .await;

    let alias = |text: String, accepted| Case {
        name: "alias",
        files: vec![text],
        settings: "HostKeyAlias MyAlias",
        accepted,
    };
    scene.check(alias(format!("myalias {key}\n"), true)).await;
    scene.check(alias(format!("MyAlias {key}\n"), true)).await;
    scene.check(alias(format!("{name} {key}\n"), false)).await;

    // Hashed by OpenSSH itself.
    for (line, accepted) in [
        (format!("{name} {key}\n"), true),
        (format!("{name} {other}\n"), false),
        (format!("x {key}\n"), false),
    ] {
        let path = scene.home.write("to_hash", &line);
        let hashed = Command::new("ssh-keygen").arg("-H").arg("-f").arg(&path).output().expect("ssh-keygen");
        assert!(hashed.status.success());
        let text = scene.home.read("to_hash");
        assert!(text.starts_with("|1|"), "{text}");
        scene.check(case("hashed", accepted, text)).await;
    }
}

#[tokio::test]
async fn keys_of_other_types() {
    let home = TempHome::new();
    let sshd =
        Sshd::builder().host_key(KeyKind::Ed25519).host_key(KeyKind::Ecdsa).host_key(KeyKind::Rsa).start();
    let scene = Scene {
        key: sshd.host_key(0).clone(),
        other: home.key("other", KeyKind::Rsa),
        authority: Authority(home.key("authority", KeyKind::Ed25519)),
        stranger: Authority(home.key("stranger", KeyKind::Ed25519)),
        sshd,
        home,
    };
    let name = scene.name();
    // Whichever key is known is the one that is asked for.
    for n in 0..3 {
        scene
            .check(case("one of three", true, format!("{name} {}\n", scene.sshd.host_key(n).public())))
            .await;
        for settings in ["HostKeyAlgorithms +ssh-rsa", "HostKeyAlgorithms -ssh-dss,*-nistp521"] {
            let files = vec![format!("{name} {}\n", scene.sshd.host_key(n).public())];
            scene
                .check(Case { name: "one of three, by a list with a sign", files, settings, accepted: true })
                .await;
        }
    }
    let rsa = scene.sshd.host_key(2).public();
    let forced =
        |text: String, settings, accepted| Case { name: "forced", files: vec![text], settings, accepted };
    scene.check(forced(format!("{name} {rsa}\n"), "HostKeyAlgorithms ssh-ed25519", false)).await;
    scene
        .check(forced(
            format!("{name} {rsa}\n"),
            "HostKeyAlgorithms ssh-ed25519\nStrictHostKeyChecking accept-new",
            false,
        ))
        .await;
    scene.check(forced(format!("{name} {rsa}\n"), "HostKeyAlgorithms rsa-sha2-256", true)).await;
    // A wrong key of the type that is known.
    scene.check(case("wrong RSA key", false, format!("{name} {}\n", scene.other.public()))).await;
}

impl Scene {
    async fn check_authority(&self, name: &str, accepted: bool) -> Option<LaunchError> {
        self.check(case(name, accepted, format!("@cert-authority * {}\n", self.authority.0.public()))).await
    }
}

#[tokio::test]
async fn certificates_of_an_authority() {
    let scene = Scene::new(Some(Certify { principals: "127.0.0.1,other", ..Certify::default() }));
    let (authority, stranger) = (scene.authority.0.public(), scene.stranger.0.public());
    let (key, name) = (scene.key.public(), scene.name());
    for case in [
        case("authority", true, format!("@cert-authority * {authority}\n")),
        case("authority of this port", true, format!("@cert-authority {name} {authority}\n")),
        case("authority of this host", true, format!("@cert-authority 127.0.0.1 {authority}\n")),
        case("authority of another host", false, format!("@cert-authority other {authority}\n")),
        case("authority excluded", false, format!("@cert-authority *,!{name},!127.0.0.1 {authority}\n")),
        case("another authority", false, format!("@cert-authority * {stranger}\n")),
        case("not marked", false, format!("{name} {authority}\n")),
        case("the plain key inside", true, format!("{name} {key}\n")),
        case(
            "another authority, but the plain key",
            true,
            format!("@cert-authority * {stranger}\n{name} {key}\n"),
        ),
        case("revoked authority", false, format!("@cert-authority * {authority}\n@revoked * {authority}\n")),
        case(
            "revoked authority and plain key",
            false,
            format!("@cert-authority * {authority}\n@revoked * {authority}\n{name} {key}\n"),
        ),
        case("revoked key", false, format!("@cert-authority * {authority}\n@revoked * {key}\n")),
        case(
            "changed key, but a good certificate",
            true,
            format!("@cert-authority * {authority}\n{name} {}\n", scene.other.public()),
        ),
    ] {
        scene.check(case).await;
    }
    let text = format!("@cert-authority * {authority}\n");
    let with = |settings, accepted| Case { name: settings, files: vec![text.clone()], settings, accepted };
    scene.check(with("HostKeyAlias other", true)).await;
    scene.check(with("HostKeyAlias third", false)).await;
    scene.check(with("HostKeyAlgorithms ssh-ed25519", false)).await;
    scene.check(with("CASignatureAlgorithms ecdsa-sha2-nistp256", false)).await;
    scene.check(with("CASignatureAlgorithms ssh-ed25519", true)).await;
}

#[tokio::test]
async fn a_certificate_of_nobody_does_not_stand_before_a_known_key() {
    let home = TempHome::new();
    let (key, authority) = (home.key("host", KeyKind::Ed25519), Authority(home.key("ca", KeyKind::Ed25519)));
    authority.certify(&key, Certify { host: true, ..Certify::default() });
    let sshd = Sshd::builder().host_key(KeyKind::Ecdsa).given_host_key(&key).start();
    let known = sshd.known_hosts();
    let (other, stranger) =
        (home.key("other", KeyKind::Ed25519), Authority(home.key("no", KeyKind::Ed25519)));
    let scene = Scene { home, sshd, other, authority, stranger, key };
    for settings in ["", "HostKeyAlgorithms +ssh-rsa"] {
        let name = "the other key is known";
        scene.check(Case { name, files: vec![known.clone()], settings, accepted: true }).await;
    }
}

#[tokio::test]
async fn certificates_that_do_not_vouch() {
    let for_us = Certify { principals: "127.0.0.1", ..Certify::default() };
    for (name, certify, accepted) in [
        ("valid", for_us, true),
        ("for any host", Certify::default(), true),
        ("expired", Certify { validity: "20200101:20200102", ..for_us }, false),
        ("not yet valid", Certify { validity: "20900101:20900102", ..for_us }, false),
        ("for another host", Certify { principals: "elsewhere", ..Certify::default() }, false),
        ("for a wildcard", Certify { principals: "*", ..Certify::default() }, false),
        ("with the port in the name", Certify { principals: "[127.0.0.1]:22", ..Certify::default() }, false),
        ("with a critical option", Certify { more: &["-O", "critical:odd@example.org=1"], ..for_us }, false),
    ] {
        let scene = Scene::new(Some(certify));
        let refused = scene.check_authority(name, accepted).await;
        assert_eq!(refused.is_none(), accepted);
        if let Some(e) = refused {
            let text = e.to_string();
            assert!(text.contains("its certificate"), "{name}: {text}");
            // The key in it is not to be trusted for itself.
            let hint = e.hint().expect("a hint");
            assert!(hint.contains("certificate") && !hint.contains(">>"), "{name}: {hint}");
            assert_eq!(hint.contains("renewed"), !certify.validity.is_empty(), "{name}: {hint}");
            // The plain key is as good as ever.
            let known = format!(
                "@cert-authority * {}\n{} {}\n",
                scene.authority.0.public(),
                scene.name(),
                scene.key.public()
            );
            scene.check(case(name, true, known)).await;
        }
    }
}

#[tokio::test]
async fn certificates_of_every_key_type() {
    for (kind, authority) in [
        (KeyKind::Rsa, KeyKind::Ed25519),
        (KeyKind::Ecdsa, KeyKind::Ed25519),
        (KeyKind::Ed25519, KeyKind::Rsa),
        (KeyKind::Rsa, KeyKind::Ecdsa),
    ] {
        let certify = Certify { principals: "127.0.0.1", ..Certify::default() };
        let scene = Scene::with(Some(certify), kind, authority);
        scene.check_authority(&format!("{kind:?} by {authority:?}"), true).await;
    }
    // An RSA authority that still signs with SHA-1.
    let certify = Certify { principals: "127.0.0.1", more: &["-t", "ssh-rsa"], ..Certify::default() };
    Scene::with(Some(certify), KeyKind::Ed25519, KeyKind::Rsa).check_authority("SHA-1", false).await;
}

#[tokio::test]
async fn new_keys_are_remembered_on_request() {
    let scene = Scene::new(None);
    let (name, key, other) = (scene.name(), scene.key.public(), scene.other.public());
    let with =
        |settings, text: String, accepted| Case { name: settings, files: vec![text], settings, accepted };
    let accept = "StrictHostKeyChecking accept-new";
    scene.check(with(accept, String::new(), true)).await;
    scene.check(with(accept, format!("other {other}\n"), true)).await;
    scene.check(with(accept, format!("{name} {other}\n"), false)).await;
    scene.check(with(accept, format!("@revoked * {key}\n"), false)).await;
    scene.check(with("StrictHostKeyChecking accept-new\nHashKnownHosts yes", String::new(), true)).await;
    scene.check(with("StrictHostKeyChecking accept-new\nHostKeyAlias nick", String::new(), true)).await;
    scene.check(with("StrictHostKeyChecking no", String::new(), true)).await;
    scene.check(with("StrictHostKeyChecking no", format!("{name} {other}\n"), true)).await;
    // Nobody is there to answer, so asking is refusing.
    scene.check(with("StrictHostKeyChecking ask", String::new(), false)).await;
}

/// Where we are stricter than OpenSSH, which lets a revoked key through when it is told to check nothing.
#[tokio::test]
async fn a_revoked_key_is_never_accepted() {
    let scene = Scene::new(None);
    let revoked = format!("@revoked * {}\n", scene.key.public());
    let settings = "StrictHostKeyChecking no";
    let case = Case { name: settings, files: vec![revoked], settings, accepted: false };
    let error = reach("server", &scene.configure("ours", &case).0).await.expect_err("revoked");
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<HostKeyError>());
    assert!(matches!(cause, Some(HostKeyError::Revoked { line: Some(1), .. })), "{error}");
}

#[tokio::test]
async fn many_connections_remember_a_new_key_once() {
    let scene = Scene::new(None);
    let case = Case {
        name: "",
        files: vec![String::new()],
        settings: "StrictHostKeyChecking accept-new",
        accepted: true,
    };
    let (options, files) = scene.configure("ours", &case);
    let connecting: Vec<_> = (0..12)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { reach("server", &options).await })
        })
        .collect();
    for task in connecting {
        task.await.expect("no panic").expect("accepted");
    }
    let text = std::fs::read_to_string(&files[0]).expect("there");
    assert_eq!(text, format!("{} {}\n", scene.name(), scene.key.public()));
}

#[tokio::test]
async fn lists_of_revoked_keys() {
    let scene = Scene::new(Some(Certify { principals: "127.0.0.1", ..Certify::default() }));
    let known = format!("{} {}\n", scene.name(), scene.key.public());
    let vouched = format!("@cert-authority * {}\n", scene.authority.0.public());
    for (text, accepted) in [
        (String::new(), true),
        (format!("# comment\n\n{} comment\n", scene.other.public()), true),
        (format!("{}\n{}\n", scene.other.public(), scene.key.public()), false),
        (format!("{}\n", scene.authority.0.public()), false),
    ] {
        let list = scene.home.write("revoked", &text);
        let settings = format!("RevokedHostKeys {}", list.display());
        scene.check(Case { name: &text, files: vec![vouched.clone()], settings: &settings, accepted }).await;
    }
    let settings = "RevokedHostKeys /nonexistent/list";
    scene.check(Case { name: settings, files: vec![known], settings, accepted: false }).await;
}

/// Binary lists, as `ssh-keygen -k` makes them.
#[tokio::test]
async fn binary_lists_of_revoked_keys() {
    let scene =
        Scene::new(Some(Certify { principals: "127.0.0.1", more: &["-z", "7"], ..Certify::default() }));
    let known = format!("{} {}\n", scene.name(), scene.key.public());
    let vouched = format!("@cert-authority * {}\n", scene.authority.0.public());
    let list = scene.home.ssh("revoked");
    let settings = format!("RevokedHostKeys {}", list.display());
    let public = |key: &KeyPair| std::fs::read_to_string(key.public_path()).expect("made");
    let (own, other, authority) = (public(&scene.key), public(&scene.other), public(&scene.authority.0));
    for (specification, known, accepted) in [
        ("", &known, true),
        (&other, &known, true),
        (&own, &known, false),
        (&format!("sha256: {own}"), &known, false),
        (&authority, &vouched, false),
        ("serial: 6\n", &vouched, true),
        ("serial: 5-9\n", &vouched, false),
        ("id: farcall test\n", &vouched, false),
    ] {
        let from = scene.home.write("specification", specification);
        let mut command = Command::new("ssh-keygen");
        command.args(["-k", "-q", "-s"]).arg(scene.authority.0.public_path());
        let made = command.arg("-f").args([&list, &from]).output().expect("ssh-keygen");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let refused = scene
            .check(Case { name: specification, files: vec![known.clone()], settings: &settings, accepted })
            .await;
        let cause = refused.as_ref().and_then(LaunchError::cause).map(|cause| cause.downcast_ref());
        match cause {
            None => assert!(accepted),
            Some(Some(HostKeyError::Revoked { file, .. })) => assert_eq!(*file, list),
            Some(other) => panic!("{other:?}"),
        }
    }
    // A damaged one is no list.
    let whole = std::fs::read(&list).expect("made");
    std::fs::write(&list, &whole[..whole.len() - 1]).expect("ours");
    let refused = scene
        .check(Case { name: "damaged", files: vec![known], settings: &settings, accepted: false })
        .await
        .expect("an error");
    assert!(refused.to_string().contains("cannot be used: it ends in the middle"), "{refused}");
}

/// What the error tells, and that doing as it says mends it.
#[tokio::test]
async fn an_error_says_what_it_saw_and_its_command_mends_it() {
    let scene = Scene::new(None);
    let name = scene.name();
    let fingerprint =
        Command::new("ssh-keygen").arg("-lf").arg(scene.key.public_path()).output().expect("ssh-keygen");
    let fingerprint =
        String::from_utf8_lossy(&fingerprint.stdout).split_whitespace().nth(1).expect("one").to_owned();
    let hint = |text: String| {
        let case = Case { name: "", files: vec![text], settings: "", accepted: false };
        scene.configure("ours", &case).0
    };
    let bad = reach("server", &hint(format!("\n{name} nonsense\n"))).await.expect_err("refused");
    assert!(bad.hint().expect("a hint").contains("known_0:2 cannot be read; if that"), "{bad}");
    for (text, line) in [
        (String::new(), None),
        (format!("# comment\n{name} {}\n", scene.other.public()), Some(2)),
        (format!("x {0}\n* {0}\n", scene.other.public()), Some(2)),
    ] {
        let case = Case { name: "", files: vec![text], settings: "", accepted: false };
        let (options, files) = scene.configure("ours", &case);
        let error = reach("server", &options).await.expect_err("refused");
        let cause =
            error.cause().and_then(|cause| cause.downcast_ref::<HostKeyError>()).expect("a typed cause");
        match cause {
            HostKeyError::Unknown { shown, name: named, .. } => {
                assert_eq!((&*shown.fingerprint, named, line), (fingerprint.as_str(), &name, None));
            }
            HostKeyError::Changed { shown, file, line: at, .. } => {
                assert_eq!((&*shown.fingerprint, file, Some(*at)), (fingerprint.as_str(), &files[0], line));
            }
            other => panic!("{other}"),
        }
        let message = error.to_string();
        assert!(message.contains(&fingerprint) && message.contains("known_0"), "{message}");
        mend(&error);
        reach("server", &options).await.unwrap_or_else(|e| panic!("not mended: {e}"));
    }
}

/// Does as an error says.
fn mend(error: &LaunchError) {
    let command = error.hint().and_then(|hint| hint.split_once("run: ")).expect("a command").1;
    let done = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Where a name is another's or hidden, and where nobody could ask the host for its key but through others.
#[tokio::test]
async fn an_errors_command_mends_it_also_for_hosts_that_cannot_be_scanned() {
    let scene = Scene::new(None);
    let jump = Sshd::start();
    let proxy = format!(
        "ProxyCommand bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3 & exec cat >&3'",
        scene.sshd.port()
    );
    let jump_key = jump.client_key().path().display();
    let jump_known = scene.home.write("jump_known", &jump.known_hosts());
    let hop = format!(
        "ProxyJump jump\nHost jump\n  HostName 127.0.0.1\n  Port {}\n  IdentityFile {jump_key}\n  \
         UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n  IdentityAgent none\nHost server",
        jump.port(),
        jump_known.display()
    );
    for settings in ["HostKeyAlias nick", "HashKnownHosts yes", &proxy, &hop] {
        // No file, an unfinished one, and one with another key.
        for text in [String::new(), "x y z".into(), format!("* {}\n", scene.other.public())] {
            let case = Case { name: settings, files: vec![text.clone()], settings, accepted: false };
            let (options, files) = scene.configure("ours", &case);
            if text.is_empty() {
                std::fs::remove_dir_all(files[0].parent().expect("a folder")).expect("ours");
            }
            let error = reach("server", &options).await.expect_err("refused");
            assert!(error.hint().expect("a hint").contains(files[0].to_str().expect("text")), "{error}");
            mend(&error);
            let written = std::fs::read_to_string(&files[0]).expect("by the command");
            let line = written.lines().last().expect("a line");
            assert!(line.ends_with(&format!(" {}", scene.key.public())), "{written}");
            assert_eq!(line.starts_with("|1|"), settings.starts_with("Hash"), "{written}");
            reach("server", &options).await.unwrap_or_else(|e| panic!("{settings}: not mended: {e}"));
        }
    }
}
