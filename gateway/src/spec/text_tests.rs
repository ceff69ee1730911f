use farcall_bootstrap::Target;
use farcall_bootstrap::ssh::SshOptions;

use super::*;

fn read(text: &str) -> Spec {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn fault(text: &str) -> String {
    match text.parse::<Spec>() {
        Err(error) => error.to_string(),
        Ok(spec) => panic!("{text} was read as {spec}"),
    }
}

#[test]
fn every_place_is_written_as_it_is_read() {
    for text in [
        "local",
        "ssh://web1",
        "ssh://admin@web1:2222",
        "ssh://a%40b@%C3%A9",
        "ssh://[fe80::1]:22",
        "ssh://[fe80::1%25eth0]",
        "openssh://me@web1",
        "docker://web",
        "podman://root@web",
        "kubectl://pod",
        "kubectl://ns/pod",
        "kubectl://ns/pod/box",
        "sudo://",
        "sudo://db",
        "command:nsenter,-t,12,-a",
        "command-line:ssh,-T,a%20b,%2C",
        "worker:/opt/tool",
    ] {
        let spec = read(text);
        assert_eq!(spec.to_string(), text);
        assert_eq!(read(&spec.to_string()), spec);
    }
}

#[test]
fn short_forms_are_hosts() {
    assert_eq!(read("web1"), Spec::ssh("web1"));
    assert_eq!(read("me@web1"), Spec::ssh("web1").user("me"));
    assert_eq!(read("fe80::1"), Spec::ssh("fe80::1"));
    assert_eq!(read("ssh://fe80::1"), Spec::ssh("fe80::1"));
    assert_eq!(read("ssh://web1:22/"), Spec::ssh("web1").port(22));
}

#[test]
fn every_setting_is_written_as_it_is_read() {
    let text = "local?id=a&chdir=/srv/a%20b&nice=-5&env.A=1%262%3D3&env.B=&memory=1048576&max_tasks=3&heartbeat=500ms&\
                lease=2s&grace=120s&start_limit=9s&config=/c%3F&identity=k%25&cache=none&via=hub%201";
    let spec = read(text);
    assert_eq!(spec.to_string(), text);
    assert_eq!(read(&spec.to_string()), spec);
    let built = Spec::local()
        .id("a")
        .chdir("/srv/a b")
        .nice(-5)
        .env("A", "1&2=3")
        .env("B", "")
        .memory(1 << 20)
        .max_tasks(3)
        .heartbeat(Duration::from_millis(500))
        .lease(Duration::from_secs(2))
        .grace(Duration::from_secs(120))
        .start_limit(Duration::from_secs(9))
        .config(ConfigFiles::Only("/c?".into()))
        .identity("k%")
        .cache(Cache::LeaveNothing)
        .via("hub 1");
    assert_eq!(spec, built);
    assert_eq!(
        read("local?memory=2G&lease=2m"),
        Spec::local().memory(2 << 30).lease(Duration::from_secs(120))
    );
}

#[test]
fn any_bytes_survive_in_values() {
    let all: Vec<u8> = (1..=255).collect();
    let value = OsString::from_vec(all);
    let spec = Spec::command(CommandTarget::new(value.clone()).args([value.clone()]))
        .chdir(value.clone())
        .env("X", value.clone())
        .identity(value);
    assert_eq!(read(&spec.to_string()), spec);
}

#[test]
fn unknown_and_duplicate_keys_are_errors_that_name_them() {
    assert!(fault("local?colour=red").contains("\"colour\""));
    assert!(fault("local?max-tasks=1").contains("max_tasks is meant"));
    assert!(fault("local?nice=1&id=a&nice=1").contains("nice is given twice"));
    assert!(fault("local?env.A=1&env.A=2").contains("env.A is given twice"));
}

#[test]
fn impossible_values_are_errors_that_name_the_key() {
    for (text, key) in [
        ("local?nice=20", "nice"),
        ("local?memory=1T", "memory"),
        ("local?memory=18446744073709551615G", "memory"),
        ("local?max_tasks=0", "max_tasks"),
        ("local?lease=0", "lease"),
        ("local?lease=99999999999999999999", "lease"),
        ("local?id=", "id"),
        ("local?via=", "via"),
        ("local?chdir=", "chdir"),
        ("local?cache=maybe", "cache"),
        ("local?env.1A=x", "env.1A"),
    ] {
        assert!(fault(text).starts_with(&format!("{key}=")), "{}", fault(text));
    }
    for text in ["local?env.1A=secret", "local?env.A=secret%", "local?%65nv.A=secret%00"] {
        assert!(!fault(text).contains("secret"), "{}", fault(text));
    }
}

#[test]
fn impossible_places_are_errors() {
    for text in [
        "",
        "ssh://",
        "ssh://web:99999",
        "ssh://[::1]x",
        "docker://",
        "docker://-v",
        "command:",
        "a/b",
        "kubectl://a/b/c/d",
    ] {
        assert!(matches!(text.parse::<Spec>(), Err(SpecError::Place { .. })), "{text}");
    }
    assert!(matches!("ftp://x".parse::<Spec>(), Err(SpecError::Scheme { .. })));
    for text in ["ssh://%zz", "local?chdir=%", "local?chdir=%00", "ssh://%ff"] {
        assert!(matches!(text.parse::<Spec>(), Err(SpecError::Escape { .. })), "{text}");
    }
}

#[test]
fn a_count_makes_several() {
    assert_eq!(Spec::parse_all("4*local?nice=1").unwrap(), vec![Spec::local().nice(1); 4]);
    assert_eq!(Spec::parse_all("web1").unwrap(), [Spec::ssh("web1")]);
    assert_eq!(Spec::parse_all("local?env.A=2*3").unwrap(), [Spec::local().env("A", "2*3")]);
    assert!(matches!("2*local".parse::<Spec>(), Err(SpecError::Count { count: 2, .. })));
    assert!(matches!(Spec::parse_all("2*local?id=a"), Err(SpecError::SharedId { count: 2, .. })));
    for text in ["0*local", "x*local", "999999999*local"] {
        assert!(matches!(Spec::parse_all(text), Err(SpecError::BadCount { .. })), "{text}");
    }
}

#[test]
fn debug_hides_values_of_variables() {
    let shown = format!("{:?}", Spec::local().env("TOKEN", "hunter2"));
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn places_become_what_starts_them() {
    let target = |text: &str| match read(text).target() {
        Target::Command(command) => {
            assert_eq!(
                command.name.as_deref(),
                text.split('?').next(),
                "errors name the place as it was written"
            );
            let words = std::iter::once(&command.program).chain(&command.args);
            words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    assert_eq!(target("docker://root@web"), "docker exec -i -u root web");
    assert_eq!(target("kubectl://ns/pod/box"), "kubectl exec -i -n ns -c box pod --");
    assert_eq!(target("sudo://db"), "sudo -n -u db --");
    assert_eq!(
        target("openssh://me@web1:22?identity=/k"),
        "ssh -T -o BatchMode=yes -l me -p 22 -i /k -- web1"
    );
    assert_eq!(target("ssh://me@web1:22"), "me@web1:22");
}

#[test]
fn the_systems_ssh_is_told_the_options() {
    let ssh = SshOptions {
        files: ConfigFiles::Only("/c".into()),
        settings: vec!["Port=2222".into(), "ProxyJump=a,b".into()],
        identity_files: vec!["/k1".into(), "/k2".into()],
        limit: Duration::from_millis(1500),
        ..SshOptions::default()
    };
    let words = |text: &str| match read(text).target_with(Some(&ssh)) {
        Target::Command(command) => {
            command.args.iter().map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        }
        other => panic!("{other}"),
    };
    assert_eq!(
        words("openssh://me@web1"),
        "-T -o BatchMode=yes -l me -F /c -i /k1 -i /k2 -o Port=2222 -o ProxyJump=a,b -o ConnectTimeout=2 -- web1"
    );
    assert_eq!(
        words("openssh://web1?config=none&identity=/k"),
        "-T -o BatchMode=yes -F none -i /k -i /k1 -i /k2 -o Port=2222 -o ProxyJump=a,b -o ConnectTimeout=2 -- web1",
        "what a spec says of itself wins"
    );
    assert_eq!(words("docker://box"), "exec -i box");
}

#[test]
fn a_builder_s_spec_reads_back_with_its_name_and_is_checked() {
    let spec = Spec::command(CommandTarget::new("nsenter").args(["-t", "1"]).named("the host"));
    assert_eq!(spec.to_string(), "command:nsenter,-t,1?name=the%20host");
    assert_eq!(spec.to_string().parse(), Ok(spec.clone()));
    assert_eq!(spec.check(), Ok(()));
    let (no_tasks, no_lease) = (spec.clone().max_tasks(0), spec.clone().lease(Duration::ZERO));
    for spec in [no_tasks, no_lease, spec.heartbeat(Duration::from_secs(11))] {
        assert!(matches!(spec.check(), Err(SpecError::Value { .. })), "{spec}");
    }
    assert!("local?name=x".parse::<Spec>().is_err());
    assert_eq!(read("local?lease=2").life().heartbeat, Duration::from_millis(500));
    assert!("local?lease=2&heartbeat=2".parse::<Spec>().is_err());
    assert!("local?heartbeat=1&lease=2".parse::<Spec>().is_ok());
}
