//! A server is shown who we are by every means that `ssh` would use, in its order, and told no more than that.

mod ssh_client;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farcall_bootstrap::ssh::{Answer, ConfigFiles, Prompter, Question, Secret, SshOptions};
use farcall_bootstrap::{Class, LaunchError, Step};
use farcall_test_support::{Authority, Certify, KeyKind, KeyPair, PASSWORD, SshAgent, Sshd, TempHome};
use ssh_client::{block, class, options, printed, reach, system_ssh};

fn with_agent(mut options: SshOptions, agent: &SshAgent) -> SshOptions {
    options.environment.insert("SSH_AUTH_SOCK".into(), agent.socket().to_str().expect("text").into());
    options
}

/// Answers from a list, one after the other, and counts the questions.
struct Answers {
    answers: Vec<Option<&'static str>>,
    asked: AtomicUsize,
    questions: std::sync::Mutex<Vec<Question>>,
    /// Questions that are being asked at this moment.
    open: AtomicUsize,
}

impl Answers {
    fn new(answers: &[Option<&'static str>]) -> Arc<Self> {
        Arc::new(Self {
            answers: answers.to_vec(),
            asked: AtomicUsize::new(0),
            questions: std::sync::Mutex::default(),
            open: AtomicUsize::new(0),
        })
    }

    fn questions(&self) -> Vec<Question> {
        self.questions.lock().expect("not poisoned").clone()
    }
}

impl Prompter for Answers {
    fn ask(&self, question: Question) -> Answer<'_> {
        Box::pin(async move {
            assert_eq!(self.open.fetch_add(1, Ordering::SeqCst), 0, "two questions at once");
            // Long enough for another connection to come to its question.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let n = self.asked.fetch_add(1, Ordering::SeqCst);
            self.questions.lock().expect("not poisoned").push(question);
            self.open.fetch_sub(1, Ordering::SeqCst);
            self.answers.get(n).copied().flatten().map(Secret::new)
        })
    }
}

fn asking(options: SshOptions, answers: &Arc<Answers>) -> SshOptions {
    SshOptions { prompter: Some(Arc::clone(answers) as Arc<dyn Prompter>), ..options }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_every_type_from_files() {
    let home = TempHome::new();
    let pem = ["-m", "PEM"];
    let pkcs8 = ["-m", "PKCS8"];
    let keys = [
        home.key("ed25519", KeyKind::Ed25519),
        home.key("ecdsa", KeyKind::Ecdsa),
        home.key("rsa", KeyKind::Rsa),
        KeyPair::generate_with(home.ssh("rsa_pem"), KeyKind::Rsa, "", &pem),
        KeyPair::generate_with(home.ssh("ecdsa_pkcs8"), KeyKind::Ecdsa, "", &pkcs8),
    ];
    let sshd = keys.iter().fold(Sshd::builder(), |builder, key| builder.authorize(key)).start();
    for key in &keys {
        // Without the public half beside it, as keys are often copied.
        std::fs::remove_file(key.public_path()).expect("there");
        let config = block(&sshd, &format!(" IdentityFile {}\n IdentityAgent none", key.path().display()));
        let session =
            reach("server", &options(&home, &config)).await.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert_eq!(printed(&session, "echo $((6*7))").await, "42\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usual_files_in_the_home_folder() {
    let home = TempHome::new();
    let key = home.key("id_ed25519", KeyKind::Ed25519);
    let sshd = Sshd::builder().authorize(&key).start();
    let known = home.write("known_hosts", &sshd.known_hosts());
    let config = format!("Port {}\nIdentityAgent none\nGlobalKnownHostsFile none\n", sshd.port());
    // The program knows another home, the account's: only our own parser is told of this one.
    let options = SshOptions { program: None, ..options(&home, &config) };
    reach("127.0.0.1", &options).await.expect("let in");
    std::fs::remove_file(known).expect("there");
    assert_eq!(class(&reach("127.0.0.1", &options).await), Some(Class::HostKey));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rsa_keys_are_as_long_as_the_configuration_asks_for() {
    let home = TempHome::new();
    let rsa = home.key("rsa", KeyKind::Rsa);
    let sshd = Sshd::builder().authorize(&rsa).start();
    let agent = SshAgent::start();
    agent.add(&rsa);
    for (least, accepted) in [(1024, true), (2048, true), (2049, false)] {
        let settings = format!(" IdentityFile {}\n RequiredRSASize {least}", rsa.path().display());
        let config = block(&sshd, &settings);
        let from_file = options(&home, &config);
        let ConfigFiles::Only(file) = &from_file.files else { unreachable!("set above") };
        assert_eq!(system_ssh(file, "server", &[]).status.success(), accepted, "{least}");
        let without_program = SshOptions { program: None, ..from_file.clone() };
        for options in [with_agent(from_file.clone(), &agent), from_file.clone(), without_program] {
            let ours = reach("server", &options).await;
            assert_eq!(class(&ours), (!accepted).then_some(Class::Auth), "{least}: {ours:?}");
            if let Err(error) = ours {
                assert!(
                    error.to_string().contains("2048 bits, and RequiredRSASize asks for 2049"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_signatures_that_the_configuration_accepts_are_made() {
    let home = TempHome::new();
    let (ed25519, rsa) = (home.key("ed25519", KeyKind::Ed25519), home.key("rsa", KeyKind::Rsa));
    let sshd = Sshd::builder().authorize(&ed25519).authorize(&rsa).option("LogLevel DEBUG1").start();
    for (key, list, made) in [
        (&ed25519, "ssh-ed25519", Some("ssh-ed25519")),
        (&ed25519, "ssh-*", Some("ssh-ed25519")),
        (&ed25519, "+ssh-rsa", Some("ssh-ed25519")),
        (&ed25519, "-ssh-ed25519", None),
        (&ed25519, "ssh-ed25519-cert-v01@openssh.com", None),
        (&rsa, "rsa-sha2-256", Some("rsa-sha2-256")),
        (&rsa, "^rsa-sha2-256", Some("rsa-sha2-256")),
        (&rsa, "-rsa-sha2-256", Some("rsa-sha2-512")),
        (&rsa, "ssh-ed25519,ecdsa-*", None),
    ] {
        let settings = format!(
            " IdentityFile {}\n IdentitiesOnly yes\n IdentityAgent none\n PubkeyAcceptedAlgorithms {list}",
            key.path().display()
        );
        let options = options(&home, &block(&sshd, &settings));
        let ConfigFiles::Only(file) = &options.files else { unreachable!("set above") };
        let logged = |text: &str| sshd.log().iter().filter(|line| line.contains(text)).count();
        let line = made.map(|name| format!("pkalg {name} "));
        let theirs = system_ssh(file, "server", &[]);
        assert_eq!(theirs.status.success(), made.is_some(), "{list}");
        for options in [options.clone(), SshOptions { program: None, ..options.clone() }] {
            let before = line.as_ref().map_or(0, |line| logged(line));
            let ours = reach("server", &options).await;
            assert_eq!(class(&ours), made.is_none().then_some(Class::Auth), "{list}: {ours:?}");
            match (&line, ours) {
                (Some(line), _) => sshd.wait_for_log(line, before + 1),
                (None, Err(error)) => {
                    assert!(error.to_string().contains("PubkeyAcceptedAlgorithms"), "{error}")
                }
                (None, Ok(_)) => unreachable!("compared above"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_signs() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    let (rsa, ed25519) = (home.key("rsa", KeyKind::Rsa), home.key("ed25519", KeyKind::Ed25519));
    for key in [&rsa, &ed25519] {
        let sshd = Sshd::builder().authorize(key).start();
        agent.add(key);
        let config = block(&sshd, "");
        let options = with_agent(options(&home, &config), &agent);
        let session = reach("server", &options).await.unwrap_or_else(|e| panic!("{key:?}: {e}"));
        assert_eq!(printed(&session, "echo in").await, "in\n");

        // Another place for the agent, and none.
        let elsewhere = format!("{config} IdentityAgent {}\n", agent.socket().display());
        reach("server", &ssh_client::options(&home, &elsewhere)).await.expect("the named agent");
        let none = with_agent(ssh_client::options(&home, &format!("{config} IdentityAgent none\n")), &agent);
        assert_eq!(class(&reach("server", &none).await), Some(Class::Auth));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_only_keeps_the_agents_other_keys_back() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    let (wanted, other) = (home.key("wanted", KeyKind::Ed25519), home.key("other", KeyKind::Ed25519));
    agent.add(&other);
    agent.add(&wanted);
    let only_other = Sshd::builder().authorize(&other).start();
    let only_wanted = Sshd::builder().authorize(&wanted).option("MaxAuthTries 1").start();
    // The private half is only in the agent.
    std::fs::remove_file(wanted.path()).expect("there");
    let more = format!(" IdentityFile {}\n IdentitiesOnly yes", wanted.path().display());
    for (sshd, accepted) in [(&only_other, false), (&only_wanted, true)] {
        let options = with_agent(options(&home, &block(sshd, &more)), &agent);
        let ConfigFiles::Only(file) = &options.files else { unreachable!("set above") };
        let theirs = system_ssh(file, "server", &[("SSH_AUTH_SOCK", agent.socket().to_str().expect("text"))]);
        assert_eq!(theirs.status.success(), accepted, "{}", String::from_utf8_lossy(&theirs.stderr));
        let ours = reach("server", &options).await;
        assert_eq!(class(&ours), (!accepted).then_some(Class::Auth), "{ours:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_users() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    let authority = Authority(home.key("authority", KeyKind::Ed25519));
    let user = local_user();
    let trusting =
        || Sshd::builder().option(format!("TrustedUserCAKeys {}", authority.0.public_path().display()));
    let sshd = trusting().start();
    for kind in [KeyKind::Ed25519, KeyKind::Ecdsa, KeyKind::Rsa] {
        let key = home.key(&format!("{kind:?}"), kind);
        let named = format!(" IdentityFile {}\n IdentityAgent none", key.path().display());
        let refused = reach("server", &options(&home, &block(&sshd, &named))).await;
        assert_eq!(class(&refused), Some(Class::Auth), "{kind:?} without a certificate");
        authority.certify(&key, Certify { principals: &user, ..Certify::default() });
        reach("server", &options(&home, &block(&sshd, &named)))
            .await
            .unwrap_or_else(|e| panic!("beside: {kind:?}: {e}"));

        // Elsewhere, and named.
        let moved = home.ssh(&format!("{kind:?}-moved.pub"));
        std::fs::rename(key.certificate_path(), &moved).expect("there");
        let both = format!("{named}\n CertificateFile {}", moved.display());
        reach("server", &options(&home, &block(&sshd, &both)))
            .await
            .unwrap_or_else(|e| panic!("named: {kind:?}: {e}"));

        // The certificate in a file, the key in the agent.
        agent.add(&key);
        let hidden = home.ssh(&format!("{kind:?}-hidden"));
        std::fs::rename(key.path(), &hidden).expect("there");
        let held = format!(" IdentityFile {}\n CertificateFile {}", key.path().display(), moved.display());
        let with = with_agent(options(&home, &block(&sshd, &held)), &agent);
        reach("server", &with).await.unwrap_or_else(|e| panic!("agent and file: {kind:?}: {e}"));

        // Both in the agent.
        std::fs::rename(&hidden, key.path()).expect("there");
        std::fs::rename(&moved, key.certificate_path()).expect("there");
        agent.add(&key);
        for file in [key.path(), &key.public_path(), &key.certificate_path()] {
            std::fs::remove_file(file).expect("there");
        }
        let with = with_agent(options(&home, &block(&sshd, "")), &agent);
        reach("server", &with).await.unwrap_or_else(|e| panic!("agent: {kind:?}: {e}"));
    }
    let key = home.key("wrong", KeyKind::Ed25519);
    authority.certify(&key, Certify { principals: "somebody_else", ..Certify::default() });
    let named = format!(" IdentityFile {}\n IdentityAgent none", key.path().display());
    assert_eq!(class(&reach("server", &options(&home, &block(&sshd, &named))).await), Some(Class::Auth));
}

fn local_user() -> String {
    let output = std::process::Command::new("id").arg("-un").output().expect("id");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_key_is_unlocked_once_and_only_when_it_would_be_taken() {
    let home = TempHome::new();
    let keys = [
        KeyPair::generate(home.ssh("new"), KeyKind::Ed25519, "open sesame"),
        KeyPair::generate_with(home.ssh("pkcs8"), KeyKind::Ecdsa, "open sesame", &["-m", "PKCS8"]),
        KeyPair::generate_with(home.ssh("pem"), KeyKind::Rsa, "open sesame", &["-m", "PEM"]),
    ];
    for key in &keys {
        let sshd = Sshd::builder().authorize(key).start();
        let named = format!(" IdentityFile {}\n IdentityAgent none", key.path().display());
        let options = options(&home, &block(&sshd, &named));

        let locked = reach("server", &options).await.expect_err("nobody to ask");
        assert_eq!(locked.class(), Class::Auth);
        assert!(locked.to_string().contains("passphrase"), "{locked}");

        let answers = Answers::new(&[Some("wrong"), Some("open sesame")]);
        let asked = asking(SshOptions { keyring: Default::default(), ..options.clone() }, &answers);
        // Many connections at once: one question at a time, and none that was answered.
        let tasks: Vec<_> = (0..6)
            .map(|_| {
                let asked = asked.clone();
                tokio::spawn(async move { reach("server", &asked).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic").unwrap_or_else(|e| panic!("{key:?}: {e}"));
        }
        let question = |failures| Question::Passphrase { key: key.path().to_owned(), failures };
        assert_eq!(answers.questions(), [question(0), question(1)]);

        // A server that does not want the key is no reason to ask.
        let uninterested = Sshd::start();
        let answers = Answers::new(&[Some("open sesame")]);
        let asked = asking(
            SshOptions {
                keyring: Default::default(),
                ..ssh_client::options(&home, &block(&uninterested, &named))
            },
            &answers,
        );
        assert_eq!(class(&reach("server", &asked).await), Some(Class::Auth));
        assert_eq!(answers.questions(), []);

        let declined =
            Answers::new(&[None, Some("wrong"), Some("wrong"), Some("wrong"), Some("open sesame")]);
        let asked = asking(
            SshOptions { keyring: Default::default(), ..ssh_client::options(&home, &block(&sshd, &named)) },
            &declined,
        );
        for (count, reason) in [(1, "was not given when it was asked for"), (4, "the passphrase was wrong")] {
            for _ in 0..2 {
                let error = reach("server", &asked).await.expect_err("still locked");
                assert_eq!(error.class(), Class::Auth);
                assert!(error.to_string().contains(reason), "{error}");
            }
            assert_eq!(declined.questions().len(), count, "declined once is declined for all");
            asked.keyring.ask_again();
        }
        reach("server", &asked).await.expect("unlocked at last");
        asked.keyring.ask_again();
        reach("server", &asked).await.expect("and that is not forgotten");

        let batch = format!("{} BatchMode yes\n", block(&sshd, &named));
        let answers = Answers::new(&[Some("open sesame")]);
        let asked = asking(ssh_client::options(&home, &batch), &answers);
        assert_eq!(class(&reach("server", &asked).await), Some(Class::Auth));
        assert_eq!(answers.questions(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_or_the_servers_questions() {
    let home = TempHome::new();
    let sshd = Sshd::builder().passwords().start();
    let user = local_user();
    let none = block(&sshd, " IdentityFile none\n IdentityAgent none");
    for method in ["password", "keyboard-interactive"] {
        let config = format!("{none} PreferredAuthentications {method}\n");
        let answers = Answers::new(&[Some("wrong"), Some(PASSWORD)]);
        let session = reach("server", &asking(options(&home, &config), &answers)).await.expect(method);
        assert_eq!(printed(&session, "echo in").await, "in\n");
        let questions = answers.questions();
        assert_eq!(questions.len(), 2, "{questions:?}");
        match (&questions[1], method) {
            (Question::Password { user: asked, host, failures: 1 }, "password") => {
                assert_eq!((asked, host.as_str()), (&user, "server"));
            }
            (Question::Server { prompt, echo: false, .. }, "keyboard-interactive") => {
                assert!(prompt.contains("assword"), "{prompt}");
            }
            (other, _) => panic!("{method}: {other:?}"),
        }

        // As often as the configuration says, and not once more.
        let limited = format!("{config} NumberOfPasswordPrompts 2\n");
        let answers = Answers::new(&[Some("wrong"), Some("wrong"), Some(PASSWORD)]);
        let refused =
            reach("server", &asking(options(&home, &limited), &answers)).await.expect_err("refused");
        assert_eq!(
            (refused.class(), refused.step(), answers.questions().len()),
            (Class::Auth, Step::Authenticate, 2)
        );
        let said = format!("{refused} {refused:?}");
        assert!(!said.contains("wrong"), "a secret in an error: {said}");
        assert!(refused.to_string().contains(&format!("by {method} (2 times)")), "{refused}");

        let nobody = reach("server", &options(&home, &config)).await.expect_err("nobody to ask");
        assert_eq!(nobody.class(), Class::Auth);
    }
    // A host whose key contradicts what is known is told no password, even where it is let through.
    let wrong = home.key("wrong", KeyKind::Ed25519);
    let known = home.write("wrong_known", &format!("[127.0.0.1]:{} {}\n", sshd.port(), wrong.public()));
    let unsure = format!(
        "Host server\n UserKnownHostsFile {}\n StrictHostKeyChecking no\n{}",
        known.display(),
        none.replace("Host server", "")
    );
    let answers = Answers::new(&[Some(PASSWORD)]);
    assert_eq!(class(&reach("server", &asking(options(&home, &unsure), &answers)).await), Some(Class::Auth));
    assert_eq!(answers.questions(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_methods_one_after_the_other() {
    let home = TempHome::new();
    let sshd = Sshd::builder().passwords().option("AuthenticationMethods publickey,password").start();
    let key = sshd.client_key().path().display();
    let config = block(&sshd, &format!(" IdentityFile {key}\n IdentityAgent none"));
    let answers = Answers::new(&[Some(PASSWORD)]);
    reach("server", &asking(options(&home, &config), &answers)).await.expect("both");
    assert_eq!(answers.questions().len(), 1);
    let key_alone = reach("server", &options(&home, &config)).await;
    assert_eq!(class(&key_alone), Some(Class::Auth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_after_another_method() {
    let home = TempHome::new();
    let key = home.key("second", KeyKind::Ed25519);
    for (first, questions) in [("password", 2), ("keyboard-interactive", 2), ("publickey", 0)] {
        let methods = format!("AuthenticationMethods {first},publickey");
        let sshd = Sshd::builder().passwords().authorize(&key).option(methods).start();
        let mut named = format!(" IdentityFile {}\n IdentityAgent none", sshd.client_key().path().display());
        if first == "publickey" {
            named.push_str(&format!("\n IdentityFile {}", key.path().display()));
        }
        let options = options(&home, &block(&sshd, &named));
        let answers = Answers::new(&[Some("wrong"), Some(PASSWORD)]);
        reach("server", &asking(options.clone(), &answers)).await.unwrap_or_else(|e| panic!("{first}: {e}"));
        assert_eq!(answers.questions().len(), questions, "{first}");
    }
}

/// A server that accepts every password and always wants one more.
struct Insatiable;

impl russh::server::Handler for Insatiable {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<russh::server::Auth, russh::Error> {
        let methods = [russh::MethodKind::Password].as_slice().into();
        Ok(russh::server::Auth::Reject { proceed_with_methods: Some(methods), partial_success: true })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_never_satisfied_is_left() {
    let home = TempHome::new();
    let key = home.key("host", KeyKind::Ed25519);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = russh::server::Config {
        keys: vec![russh::keys::load_secret_key(key.path(), None).expect("a key")],
        max_auth_attempts: 1000,
        auth_rejection_time: Duration::ZERO,
        ..Default::default()
    };
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let session = russh::server::run_stream(Arc::new(server), stream, Insatiable).await;
        let _ = session.expect("a handshake").await;
    });
    let known = home.write("known", &format!("[127.0.0.1]:{port} {}\n", key.public()));
    let config = format!(
        "Host server\n HostName 127.0.0.1\n Port {port}\n UserKnownHostsFile {}\n IdentityFile none\n IdentityAgent none\n",
        known.display()
    );
    let answers = Answers::new(&[Some(PASSWORD); 1000]);
    let error = reach("server", &asking(options(&home, &config), &answers)).await.expect_err("never let in");
    assert_eq!((error.class(), error.step()), (Class::Auth, Step::Authenticate), "{error}");
    assert!(error.to_string().contains("wants another one"), "{error}");
    assert!(answers.questions().len() < 50, "{}", answers.questions().len());
    serving.await.expect("the connection was closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_what_was_tried_and_why_not_more() {
    let home = TempHome::new();
    let builder = Sshd::builder();
    let banner = builder.dir().join("banner");
    std::fs::write(&banner, "members only\n").expect("a writable folder");
    let sshd = builder.option(format!("Banner {}", banner.display())).start();
    let key = home.key("unknown", KeyKind::Ed25519);
    let open = home.key("open", KeyKind::Ed25519);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(open.path(), mode).expect("ours");
    let config = block(
        &sshd,
        &format!(
            " IdentityFile {}\n IdentityFile {}\n IdentityAgent /nonexistent/agent",
            open.path().display(),
            key.path().display()
        ),
    );
    let error: LaunchError = reach("server", &options(&home, &config)).await.expect_err("not authorized");
    assert_eq!((error.class(), error.step(), error.host()), (Class::Auth, Step::Authenticate, "server"));
    assert_eq!(error.evidence(), "members only\n");
    let text = error.to_string();
    for part in
        ["unknown", "open can be read by others (mode 644)", "/nonexistent/agent", "accepts publickey"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing at all to try.
    let config = block(&sshd, " IdentityFile none\n IdentityAgent none");
    let error = reach("server", &options(&home, &config)).await.expect_err("nothing to try");
    assert_eq!(error.class(), Class::Auth);
    assert!(error.hint().expect("a hint").contains("IdentityFile"));
    let config = block(&sshd, " IdentityFile /nonexistent/key\n IdentityAgent none");
    let error = reach("server", &options(&home, &config)).await.expect_err("nothing to try");
    assert!(error.hint().expect("a hint").contains("there is no /nonexistent/key"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banner_that_is_not_utf_8_is_named_with_the_way_round_it() {
    let home = TempHome::new();
    let builder = Sshd::builder();
    let banner = builder.dir().join("banner");
    std::fs::write(&banner, b"members only, \xe9lite\n").expect("a writable folder");
    let sshd = builder.option(format!("Banner {}", banner.display())).start();
    let key = home.key("unknown", KeyKind::Ed25519);
    // Before the first key is shown, and as the answer to one.
    for (file, theirs_gets_in) in [(sshd.client_key().path(), true), (key.path(), false)] {
        for more in ["", "\n PreferredAuthentications password,publickey"] {
            let named = format!(" IdentityFile {}\n IdentityAgent none{more}", file.display());
            let options = asking(options(&home, &block(&sshd, &named)), &Answers::new(&[]));
            let ConfigFiles::Only(config) = &options.files else { unreachable!("set above") };
            assert_eq!(system_ssh(config, "server", &[]).status.success(), theirs_gets_in);
            let error = reach("server", &options).await.expect_err("not read");
            assert_eq!((error.class(), error.step()), (Class::Connect, Step::Authenticate), "{error}");
            assert!(error.to_string().contains("not UTF-8"), "{error}");
            assert!(error.hint().expect("a hint").contains("openssh://"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_keys_are_the_servers_word_and_not_a_riddle() {
    let home = TempHome::new();
    let agent = SshAgent::start();
    for n in 0..4 {
        agent.add(&home.key(&format!("key{n}"), KeyKind::Ed25519));
    }
    let sshd = Sshd::builder().option("MaxAuthTries 2").start();
    let options = with_agent(options(&home, &block(&sshd, "")), &agent);
    let error = reach("server", &options).await.expect_err("too many");
    assert_eq!((error.class(), error.step()), (Class::Auth, Step::Authenticate));
    assert!(error.evidence().contains("Too many authentication failures"), "{error}");
    // Authentication is never tried twice.
    sshd.wait_for_log("Connection from", 1);
    assert_eq!(sshd.log().iter().filter(|line| line.contains("Connection from")).count(), 1);
}
