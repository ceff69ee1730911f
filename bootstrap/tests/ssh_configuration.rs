//! The configuration is the one that `ssh` would use, with the program's help and without.

mod ssh_client;

use std::process::Command;
use std::sync::{Arc, Mutex};

use farcall_bootstrap::ssh::{ConfigFiles, SshOptions, SshTarget, connect, describe};
use farcall_bootstrap::{Class, Step};
use farcall_test_support::{Sshd, TempHome};
use ssh_client::{options, printed, reach};

/// With the program that is asked, and without.
fn both_ways(options: &SshOptions) -> [SshOptions; 2] {
    // A setting that changes nothing here, and that has the program asked.
    let settings = [options.settings.as_slice(), &["VisualHostKey=yes".to_owned()]].concat();
    [SshOptions { settings, ..options.clone() }, SshOptions { program: None, ..options.clone() }]
}

/// Only where something is written that may mean more than it seems.
#[tokio::test]
async fn the_program_is_asked_where_that_makes_a_difference() {
    let home = TempHome::new();
    home.write("plain", "Host other\n  User me\n");
    home.write("odd", "Host other\n  User \"me\"\n");
    let include = |name| format!("Include {}\n", home.ssh(name).display());
    for (text, asked) in [
        ("", false),
        ("Host web*\n  HostName web1.example.org\n  Port 2222\n  User me # not plain\n", true),
        ("Host web* !web2\n  HostName 127.0.0.1\n  Port 2222\n  User me\n  IdentityFile ~/.ssh/web\n", false),
        ("Match all\n  User me\n", true),
        ("Host other\n  Match exec true\n", true),
        ("Host other\n  NoSuchKeyword yes\n", true),
        ("CanonicalizeHostname yes\n", true),
        ("ProxyCommand nc %h %p\n", true),
        (&include("plain"), false),
        (&include("odd"), true),
    ] {
        // It always fails, so that having been asked shows.
        let options = SshOptions { program: Some("/bin/false".into()), ..options(&home, text) };
        let described = describe(&SshTarget::new("web1"), &options).await;
        assert_eq!(described.is_err(), asked, "{text}: {described:?}");
        if let Err(error) = described {
            assert_eq!(error.step(), Step::Config);
        }
    }
    let options = SshOptions { program: Some("/bin/false".into()), ..options(&home, "") };
    for (host, setting, asked) in
        [("web1", "Port=22", false), ("Web1", "Port=22", true), ("web1", "Port=http", true)]
    {
        let options = SshOptions { settings: vec![setting.into()], ..options.clone() };
        let described = describe(&SshTarget::new(host), &options).await;
        assert_eq!(described.is_err(), asked, "{host} {setting}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn includes_and_patterns() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let known = home.write("known_127.0.0.1", &sshd.known_hosts());
    let parts = home.write("parts/1.conf", &format!("Port {}\n", sshd.port()));
    home.write(
        "parts/2.conf",
        &format!("Host web*\n  IdentityFile {}\n  IdentitiesOnly yes\n", sshd.client_key().path().display()),
    );
    let config = format!(
        "Include {}/*.conf\nHost web1 !web2\n  HostName 127.0.0.1\n  UserKnownHostsFile {}%h\nHost *\n  Port 1\n  \
         GlobalKnownHostsFile none\n  IdentityAgent none\n",
        parts.parent().expect("a folder").display(),
        known.to_str().expect("text").trim_end_matches("127.0.0.1"),
    );
    for options in both_ways(&options(&home, &config)) {
        let session = reach("web1", &options).await.expect("let in");
        assert_eq!(printed(&session, "echo in").await, "in\n");
        let other = reach("web2", &options).await.expect_err("no such name");
        assert!(matches!(other.step(), Step::Resolve), "{other}");
    }
}

#[tokio::test]
async fn hidden_files_are_not_included_unless_named() {
    let home = TempHome::new();
    home.write("parts/.hidden.conf", "Port 1001\n");
    home.write("parts/seen.conf", "User seen\n");
    home.write("parts/.folder/seen.conf", "Port 1002\n");
    home.write("parts/one/two/deep.conf", "Port 1003\n");
    let parts = home.ssh("parts").display().to_string();
    for (patterns, port) in [
        ("DIR/*.conf DIR/?hidden.conf DIR/[.]hidden.conf DIR/*/seen.conf DIR/**/deep.conf", 7),
        ("DIR/.h*.conf DIR/*.conf", 1001),
        ("DIR/.f*/*.conf DIR/*.conf", 1002),
        ("DIR/*/*/deep.conf DIR/*.conf", 1003),
    ] {
        let config = format!("Include {}\nPort 7\n", patterns.replace("DIR", &parts));
        for options in both_ways(&options(&home, &config)) {
            let described = describe(&SshTarget::new("a"), &options).await.expect("understood");
            for line in ["User seen".to_owned(), format!("Port {port}")] {
                assert!(described.contains(&line), "{patterns} {:?}: {described:?}", options.program);
            }
        }
    }
}

#[tokio::test]
async fn files_that_others_may_write_are_not_read() {
    let home = TempHome::new();
    let included = home.write("included", "User included\n");
    let config = format!("Include {}\n", included.display());
    for (mode, read) in [(0o644, true), (0o600, true), (0o666, false), (0o602, false)] {
        let mode_of = |path, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(path, mode).expect("ours");
        };
        // The file that a caller names may be anybody's, what it includes may not.
        let options = options(&home, &config);
        let ConfigFiles::Only(file) = &options.files else { unreachable!("set above") };
        mode_of(file, 0o666);
        mode_of(&included, mode);
        let theirs =
            Command::new("ssh").arg("-G").arg("-F").arg(file).arg("a").output().expect("ssh is installed");
        assert_eq!(theirs.status.success(), read, "{mode:o}");
        let plain = options.clone();
        let [asked, alone] = both_ways(&options);
        for options in [plain, asked, alone] {
            let described = describe(&SshTarget::new("a"), &options).await;
            assert_eq!(described.is_ok(), read, "{mode:o} {:?}: {described:?}", options.program);
            if let Err(error) = described {
                assert_eq!((error.step(), error.class()), (Step::Config, Class::Connect));
                let text = error.to_string();
                // In the program's words, or in ours.
                let words =
                    if options.program.is_some() { "Bad owner or permissions" } else { "others may write" };
                assert!(text.contains(words) && text.contains("included"), "{text}");
            }
        }
        // The user's own file, as far as our parser is believed.
        let usual = home.write("config", "Host a\n User a\n");
        mode_of(&usual, mode);
        let options = SshOptions { files: ConfigFiles::Usual, program: None, ..options };
        let described = describe(&SshTarget::new("a"), &options).await;
        assert_eq!(described.is_ok(), read, "{mode:o}: {described:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn match_is_understood_by_the_program_and_refused_without_it() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let mark = home.ssh("mark");
    std::fs::write(&mark, "").expect("writable");
    let config = format!(
        "Match originalhost server exec \"test -e {}\"\n{}",
        mark.display(),
        sshd.config("server").split_once('\n').expect("lines").1
    );
    let [asked, alone] = both_ways(&options(&home, &config));
    reach("server", &asked).await.expect("let in");
    let error = reach("server", &alone).await.expect_err("not guessed");
    assert_eq!((error.step(), error.class()), (Step::Config, Class::Connect));
    assert!(error.to_string().contains("config:1: Match"), "{error}");
    assert!(error.hint().expect("a hint").contains("ssh program"), "{error}");
    // A program that is not there is none.
    let absent = SshOptions { program: Some("/nonexistent/ssh".into()), ..asked };
    assert_eq!(reach("server", &absent).await.expect_err("not guessed").step(), Step::Config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_caller_says_wins() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let config =
        sshd.config("server").replace(&format!("Port {}", sshd.port()), "Port 1\n  User nobody_here");
    let key = sshd.client_key().path();
    let user = Command::new("id").arg("-un").output().expect("id");
    let user = String::from_utf8(user.stdout).expect("text").trim().to_owned();
    let elsewhere =
        config.replace(&format!("IdentityFile {}", key.display()), "IdentityFile /nonexistent/key");
    for options in both_ways(&options(&home, &elsewhere)) {
        let target = SshTarget::new("server").user(&user).port(sshd.port());
        assert_eq!(connect(&target, &options).await.expect_err("no key").class(), Class::Auth);
        let with_key = SshOptions { identity_files: vec![key.to_owned()], ..options };
        connect(&target, &with_key).await.expect("let in");
        let by_settings = SshOptions {
            settings: vec![format!("Port={}", sshd.port()), format!("User {user}")],
            ..with_key
        };
        connect(&SshTarget::new("server"), &by_settings).await.expect("let in");
    }
}

#[tokio::test]
async fn a_configuration_that_ssh_refuses_is_an_error_with_its_words() {
    let home = TempHome::new();
    let [asked, alone] = both_ways(&options(&home, "Host a\n  Port zero\n"));
    let error = reach("a", &asked).await.expect_err("refused");
    assert_eq!(error.step(), Step::Config);
    assert!(error.evidence().contains("config"), "{error:?}");
    assert!(error.to_string().contains("refuses these settings"), "{error}");
    assert_eq!(reach("a", &alone).await.expect_err("refused").step(), Step::Config);
    for options in [asked, alone] {
        let missing = SshOptions { files: ConfigFiles::Only(home.ssh("missing")), ..options.clone() };
        assert_eq!(reach("a", &missing).await.expect_err("no file").step(), Step::Config);
        for host in ["-oProxyCommand=touch /tmp/x", "a b", ""] {
            assert_eq!(reach(host, &options).await.expect_err("not a host").step(), Step::Config, "{host:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_spaces_in_their_names_are_found() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    let known = home.write("a folder/known hosts", &sshd.known_hosts());
    let key = home.ssh("a folder/a key");
    std::fs::copy(sshd.client_key().path(), &key).expect("copied");
    let config = format!(
        "Host server\n  HostName 127.0.0.1\n  Port {}\n  IdentityFile \"{}\"\n  IdentitiesOnly yes\n  \
         UserKnownHostsFile /nonexistent \"{}\"\n  GlobalKnownHostsFile none\n",
        sshd.port(),
        key.display(),
        known.display()
    );
    for options in both_ways(&options(&home, &config)) {
        let session = reach("server", &options).await.expect("let in");
        assert_eq!(printed(&session, "echo in").await, "in\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_program_can_do_is_said_with_the_way_to_have_it() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("GSSAPIAuthentication yes").start();
    let leads_on = |error: &farcall_bootstrap::LaunchError| {
        assert!(error.hint().expect("a hint").contains("openssh://"), "{error}");
    };
    let config = format!("{}  KnownHostsCommand /bin/cat /etc/keys\n", sshd.config("server"));
    for options in both_ways(&options(&home, &config)) {
        let error = reach("server", &options).await.expect_err("not understood");
        assert_eq!((error.step(), error.class()), (Step::Config, Class::Connect));
        assert!(error.to_string().contains("KnownHostsCommand"), "{error}");
        leads_on(&error);
    }
    let key = sshd.client_key().path().display().to_string();
    let keyless = sshd.config("server").replace(&key, "/nonexistent/key");
    let config = format!("{keyless}  GSSAPIAuthentication yes\n");
    for options in both_ways(&options(&home, &config)) {
        let error = reach("server", &options).await.expect_err("no ticket and no key");
        assert_eq!(error.class(), Class::Auth);
        assert!(error.hint().expect("a hint").contains("gssapi-with-mic: "), "{error}");
        leads_on(&error);
    }
    let config = format!("{}  BindInterface lo\n", sshd.config("server"));
    for options in both_ways(&options(&home, &config)) {
        let error = reach("server", &options).await.expect_err("not done");
        assert_eq!((error.step(), error.class()), (Step::Config, Class::Connect));
        assert!(error.to_string().contains("BindInterface"), "{error}");
        leads_on(&error);
    }
    // Other keys may serve.
    let config = format!("{keyless}  PKCS11Provider /nonexistent/library.so\n");
    for options in both_ways(&options(&home, &config)) {
        let error = reach("server", &options).await.expect_err("no key");
        assert_eq!(error.class(), Class::Auth);
        assert!(error.to_string().contains("keys of PKCS11Provider are not used: "), "{error}");
        leads_on(&error);
    }
    // Who does not want it is not told of it.
    let error = reach("server", &options(&home, &keyless)).await.expect_err("no key");
    assert!(!error.to_string().contains("openssh://"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_reach_commands_as_far_as_the_server_accepts_them() {
    let home = TempHome::new();
    let sshd = Sshd::builder().option("AcceptEnv LANG LC_* SET_*").start();
    let config = format!(
        "{}  SetEnv SET_ONE=1 \"SET_TWO=a b\" LANG=set OTHER=set\n  SetEnv SET_LATE=never\n  SendEnv LANG LC_*\n  \
         SendEnv SET_* OTHER\n  SendEnv -LC_A*\n",
        sshd.config("server")
    );
    let environment = ["LANG", "LC_TIME", "LC_ALL", "SET_TWO", "SET_SENT", "SET_LATE", "OTHER", "OWN"]
        .map(|name| (name.to_owned(), format!("sent {name}")));
    let command = "echo \"$SET_ONE|$SET_TWO|$LANG|$LC_TIME|$LC_ALL|$SET_SENT|$SET_LATE|$OTHER|$OWN\"";
    let theirs = Command::new("ssh")
        .arg("-F")
        .arg(home.write("theirs", &config))
        .args(["server", command])
        .envs(environment.clone())
        .output()
        .expect("ssh must be installed (openssh-client)");
    let theirs = String::from_utf8(theirs.stdout).expect("text");
    // What is taken back is a pattern that was given, not a name that one selects.
    assert_eq!(theirs, "1|a b|set|sent LC_TIME|sent LC_ALL|sent SET_SENT|sent SET_LATE||\n");
    for options in both_ways(&options(&home, &config)) {
        let options = SshOptions { environment: environment.clone().into(), ..options };
        let session = reach("server", &options).await.expect("let in");
        assert_eq!(printed(&session, command).await, theirs);
        // Each command has a channel of its own.
        assert_eq!(printed(&session, command).await, theirs);
    }
    let wrong = format!("{}  SetEnv hunter2\n", sshd.config("server"));
    for options in both_ways(&options(&home, &wrong)) {
        let error = reach("server", &options).await.expect_err("no variable");
        assert_eq!(error.step(), Step::Config);
    }
}

/// Text that is logged.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_agent_that_is_not_forwarded_is_warned_of() {
    let (home, sshd) = (TempHome::new(), Sshd::start());
    for (setting, warned) in [("yes", true), ("no", false), ("/another/agent", true)] {
        let config = format!("{}  ForwardAgent {setting}\n", sshd.config("server"));
        for options in both_ways(&options(&home, &config)) {
            let said = Said::default();
            let writer = said.clone();
            let level = tracing::Level::WARN;
            let log = tracing_subscriber::fmt().with_max_level(level).with_writer(move || writer.clone());
            let _logging = tracing::subscriber::set_default(log.finish());
            reach("server", &options).await.expect("let in all the same");
            let said = String::from_utf8(said.0.lock().expect("not poisoned").clone()).expect("text");
            let named =
                said.contains("ForwardAgent") && said.contains("server") && said.contains("openssh://");
            assert_eq!(named, warned, "{setting}: {said}");
        }
    }
}

/// Our parser against the program, on configurations made to differ where parsers differ.
#[test]
fn our_parser_agrees_with_the_program() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let home = TempHome::new();
    home.write("inc", "User from_include\nHost other\n  Port 1111\n");
    let configs = [
        "Port=2201\nPort 2202\n",
        "host a b c\n  port 1\nHOST *\n  PORT 2\n",
        "Host * !a\n  Port 1\n",
        "Host !a *\n  Port 1\n",
        "Host \"a\" # comment\n  Port \"7\"\n  User x # me\n",
        "  # comment\n\n\tHost\ta\n\t\tPort\t=\t9\n",
        "Host b\n  Include inc\nHost a\n  User mine\n",
        "Host a\n  Include inc\n  Port 5\n",
        "Host a\n  HostName %h.example.org\n  User u\n",
        "Host a\n  HostName fe80::1%%lo\n",
        "UserKnownHostsFile \"/with a space/known\" /plain\nGlobalKnownHostsFile \"/another one\"\n",
        "ProxyJump j1,u@j2:22\nProxyCommand nc %h %p\n",
        "ProxyCommand nc %h %p\nProxyJump j1\n",
        "ProxyJump none\n",
        "HostName h.example.org\nUser u\nPort 9\nHostKeyAlias Web\nProxyJump %r@%n-%h:7,[%h]:8,p%p,x%%y,%k\n",
        "HostName h.example.org\nHostKeyAlias Web\nProxyCommand nc %k %%k %n %h\n",
        "ConnectTimeout 1m\nServerAliveInterval 15\nServerAliveCountMax 7\n",
        "Compression yes\nHashKnownHosts yes\nStrictHostKeyChecking accept-new\n",
        "IdentityFile ~/one\nHost a\n  IdentityFile /two\nHost *\n  IdentityFile ~/one\nIdentitiesOnly yes\n",
        "PreferredAuthentications publickey,password\nPasswordAuthentication no\nNumberOfPasswordPrompts 1\n",
        "HostKeyAlias Web\nRevokedHostKeys /etc/revoked\nAddressFamily inet\n",
        "Host a\n  SendEnv LANG LC_*\n  SetEnv A=1 \"B=2 3\"\nHost *\n  SendEnv X -LC_*\n  SetEnv C=4\n",
        "PubkeyAcceptedKeyTypes ssh-ed25519,rsa-sha2-512\n",
    ];
    for text in configs {
        // What both make of it shows in how they would connect.
        let text = text.replace("Include inc", &format!("Include {}", home.ssh("inc").display()));
        let [asked, alone] = both_ways(&SshOptions { home: None, ..options(&home, &text) });
        let theirs = runtime.block_on(describe(&SshTarget::new("a"), &asked));
        let ours = runtime.block_on(describe(&SshTarget::new("a"), &alone));
        let (mut theirs, mut ours) = (theirs.expect("understood"), ours.expect("understood"));
        // The program lists more usual key files than we can use.
        for lines in [&mut theirs, &mut ours] {
            lines.retain(|line| !line.starts_with("IdentityFile") || text.contains("IdentityFile"));
        }
        assert_eq!(ours, theirs, "{text}");
    }
}
