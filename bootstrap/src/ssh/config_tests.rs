use super::*;

fn options() -> SshOptions {
    SshOptions {
        program: None,
        files: ConfigFiles::None,
        home: Some("/home/me".into()),
        local_user: Some("me".into()),
        ..SshOptions::default()
    }
}

/// The configuration that our own parser makes of files in a private folder.
fn parsed(files: &[(&str, &str)], target: &SshTarget) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
        std::fs::write(path, text.replace("DIR", dir.path().to_str().expect("text"))).expect("written");
    }
    let options = SshOptions {
        files: ConfigFiles::Only(dir.path().join("config")),
        home: Some(dir.path().to_owned()),
        ..options()
    };
    Config::from_raw(read_files(target, &options)?.0, target, &options)
}

#[test]
fn defaults_are_those_of_ssh() {
    let target = SshTarget::new("web");
    let config = Config::from_raw(Raw::new(), &target, &options()).expect("nothing to refuse");
    assert_eq!((config.host.as_str(), config.port, config.user.as_str()), ("web", 22, "me"));
    assert_eq!(config.identity_files.last().expect("some"), Path::new("/home/me/.ssh/id_ed25519"));
    assert_eq!(config.user_known_hosts[0], Path::new("/home/me/.ssh/known_hosts"));
    assert_eq!(config.strictness, Strictness::Strict);
    assert_eq!(config.methods, [Method::PublicKey, Method::KeyboardInteractive, Method::Password]);
    assert_eq!(config.prompts, 3);
    assert_eq!(config.algorithms, AlgorithmSettings::default());
}

#[test]
fn the_first_value_wins_and_patterns_select() {
    let text = "\
Port=2201 # comment
Host web !web2
    HostName %h.example.org
    Port 2202
    User = \"first user\"
\tIdentityFile  ~/.ssh/one
    IdentityFile ~/.ssh/two
Host *2
    User second
Host *
    User third
    IdentityFile ~/.ssh/three
    ConnectTimeout 1m30s
    UserKnownHostsFile \"a b\" c
    ProxyCommand nc -x \"proxy host\" %h %p
    ProxyJump ignored
Match all
    Compression yes
";
    let error = parsed(&[("config", text)], &SshTarget::new("web")).expect_err("a user with a space");
    assert!(matches!(error, ConfigError::User(_)), "{error}");
    let text = text.replace("first user", "first");
    let config = parsed(&[("config", &text)], &SshTarget::new("web")).expect("understood");
    assert_eq!((config.host.as_str(), config.port, config.user.as_str()), ("web.example.org", 2201, "first"));
    let names: Vec<_> = config.identity_files.iter().map(|f| f.file_name().expect("a name")).collect();
    assert_eq!(names, ["one", "two", "three"]);
    assert_eq!(config.connect_timeout, Some(Duration::from_secs(90)));
    assert_eq!(config.user_known_hosts, [Path::new("a b"), Path::new("c")]);
    assert_eq!(config.proxy_command.as_deref(), Some("nc -x \"proxy host\" web.example.org 2201"));
    assert!(config.jumps.is_empty() && config.compression);

    let config =
        parsed(&[("config", &text)], &SshTarget::new("web2").user("mine").port(7)).expect("understood");
    assert_eq!((config.host.as_str(), config.port, config.user.as_str()), ("web2", 7, "mine"));
    let config = parsed(&[("config", &text)], &SshTarget::new("web2")).expect("understood");
    assert_eq!(config.user, "second");
}

#[test]
fn included_files_apply_where_they_are_included() {
    let files = [
        ("config", "Host a\n Include DIR/parts/*.conf\nHost *\n User last\n Include loop\n"),
        ("parts/1.conf", "Port 1001\nHost b\n Port 1002\n User never\n"),
        ("parts/2.conf", "User two\n"),
        (".ssh/loop", "Compression yes\n"),
    ];
    let a = parsed(&files, &SshTarget::new("a")).expect("understood");
    assert_eq!((a.port, a.user.as_str(), a.compression), (1001, "two", true));
    let b = parsed(&files, &SshTarget::new("b")).expect("understood");
    assert_eq!((b.port, b.user.as_str()), (22, "last"));

    let endless = [("config", "Include DIR/config\n")];
    let error = parsed(&endless, &SshTarget::new("a")).expect_err("endless");
    assert!(matches!(error, ConfigError::File(FileError::Depth { .. })), "{error}");
}

#[test]
fn what_is_not_understood_is_an_error() {
    let refused = |text: &str| parsed(&[("config", text)], &SshTarget::new("a")).expect_err(text);
    assert!(matches!(
        refused("User x\nMatch host a\n Port 1\n"),
        ConfigError::File(FileError::Match { line: 2, .. })
    ));
    assert!(matches!(refused("User \"x\n"), ConfigError::File(FileError::Quote { line: 1, .. })));
    assert!(matches!(refused("\nUser\n"), ConfigError::File(FileError::Empty { line: 2, .. })));
    assert!(matches!(refused("Port many\n"), ConfigError::Value { keyword: "Port", .. }));
    assert!(matches!(refused("ConnectTimeout 5x\n"), ConfigError::Value { .. }));
    assert!(matches!(refused("StrictHostKeyChecking maybe\n"), ConfigError::Value { .. }));
    assert!(matches!(refused("HostName a;b\n"), ConfigError::Host(_)));
    assert!(matches!(refused("ProxyUseFdpass yes\n"), ConfigError::Unsupported(_)));
    assert!(matches!(
        refused("KnownHostsCommand /bin/keys %H\n"),
        ConfigError::Unsupported("KnownHostsCommand")
    ));
    assert!(parsed(&[("config", "KnownHostsCommand none\n")], &SshTarget::new("a")).is_ok());
    let absent = SshOptions { files: ConfigFiles::Only("/nonexistent/config".into()), ..options() };
    assert!(matches!(read_files(&SshTarget::new("a"), &absent), Err(ConfigError::File(FileError::Read(..)))));
}

#[test]
fn names_that_a_shell_would_read_are_refused() {
    for host in ["", "-oProxyCommand=x", "a b", "a;b", "$(x)", "a\n", "`x`"] {
        assert!(check_host(host).is_err(), "{host:?}");
    }
    for host in ["a", "2001:db8::1", "host.example.org", "a_b"] {
        assert!(check_host(host).is_ok(), "{host:?}");
    }
    assert!(check_user("a'b").is_err() && check_user("-x").is_err() && check_user("DOMAIN\\user").is_ok());
}

#[test]
fn settings_of_the_caller_come_first() {
    let options = SshOptions {
        settings: vec!["User=x".into(), "port 99".into()],
        identity_files: vec!["/keys/100%".into()],
        ..options()
    };
    let target = SshTarget::new("a");
    let config =
        Config::from_raw(read_files(&target, &options).expect("read").0, &target, &options).expect("valid");
    assert_eq!((config.user.as_str(), config.port), ("x", 99));
    assert_eq!(config.identity_files, [Path::new("/keys/100%")]);
    let options = SshOptions { settings: vec!["nonsense".into()], ..options };
    assert!(matches!(read_files(&target, &options), Err(ConfigError::File(FileError::Setting(_)))));
}

#[test]
fn jumps_in_every_form() {
    let parse_jumps = |text| config_jumps::parse(text, &Tokens::default());
    let jumps = parse_jumps("a, u@b:2222 ,[2001:db8::1]:23,2001:db8::2,ssh://me@c:7/").expect("valid");
    let texts: Vec<String> = jumps.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["a", "u@b:2222", "[2001:db8::1]:23", "2001:db8::2", "me@c:7"]);
    assert!(parse_jumps("a,,b").is_err() && parse_jumps("a:x").is_err() && parse_jumps("-x").is_err());
}

#[test]
fn agents() {
    let with = |setting: &str| {
        let options = SshOptions {
            settings: vec![format!("IdentityAgent={setting}")],
            environment: [("SSH_AUTH_SOCK", "/a"), ("OTHER", "/b")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            ..options()
        };
        let target = SshTarget::new("x");
        let raw = read_files(&target, &options).expect("read").0;
        Config::from_raw(raw, &target, &options).expect("valid").agent
    };
    assert_eq!(with("SSH_AUTH_SOCK"), Some("/a".into()));
    assert_eq!(with("$OTHER"), Some("/b".into()));
    assert_eq!(with("${OTHER}/%r"), Some("/b/me".into()));
    assert_eq!(with("none"), None);
    assert_eq!(with("~/agent"), Some("/home/me/agent".into()));
}
