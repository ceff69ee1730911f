use super::*;

const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2pr+Bfus1hvPof4Wb/plZCzSbqadHH0u+/f4ODtKnE";

fn known(text: &str, name: &str) -> KnownHosts {
    let mut found = KnownHosts::default();
    found.scan(Path::new("file"), text, name);
    found
}

fn key(text: &str) -> KeyData {
    PublicKey::from_openssh(text).expect("a key").key_data().clone()
}

fn stands(text: &str, name: &str, presented: &str) -> &'static str {
    match known(text, name).standing(&key(presented)) {
        Standing::Known => "known",
        Standing::New => "new",
        Standing::Changed(_) => "changed",
        Standing::Revoked(_) => "revoked",
    }
}

#[test]
fn plain_lines() {
    let text =
        format!("# comment\n\nother {A}\n  host,host2\t{}  a comment # more\n", A.replace(' ', "\t  "));
    assert_eq!(stands(&text, "host", A), "known");
    assert_eq!(stands(&text, "host2", A), "known");
    assert_eq!(stands(&text, "host3", A), "new");
    assert_eq!(stands(&text, "host", B), "changed");
    // A second key of the same type is as good as the first.
    assert_eq!(stands(&format!("host {B}\nhost {A}\n"), "host", A), "known");
}

#[test]
fn patterns_ports_and_case() {
    assert_eq!(stands(&format!("*.ORG,!bad.org {A}"), "good.org", A), "known");
    assert_eq!(stands(&format!("*.org,!bad.org {A}"), "bad.org", A), "new");
    assert_eq!(stands(&format!("!bad.org,*.org {A}"), "bad.org", A), "new");
    assert_eq!(stands(&format!("[host]:2222 {A}"), "[host]:2222", A), "known");
    assert_eq!(stands(&format!("[host]:2222 {A}"), "host", A), "new");
    assert_eq!(stands(&format!("* {A}"), "[host]:2222", A), "known");
    assert_eq!(name_with_port("HOST", 22), "host");
    assert_eq!(name_with_port("HOST", 2222), "[host]:2222");
    let places = |text: &str| known(text, "host").keys[0].place.literal;
    assert!(places(&format!("x,host {A}")) && !places(&format!("h* {A}")));
}

#[test]
fn hashed_names() {
    let salt = [7; 20];
    let hosts =
        HostPatterns::HashedName { salt: salt.to_vec(), hash: hash_name(&salt, "[host]:2222") }.to_string();
    assert!(hosts.starts_with("|1|"));
    assert_eq!(stands(&format!("{hosts} {A}"), "[host]:2222", A), "known");
    assert_eq!(stands(&format!("{hosts} {A}"), "host", A), "new");
    assert!(known(&format!("{hosts} {A}"), "[host]:2222").keys[0].place.literal);
    // As ssh-keygen -H makes it of "example.org".
    let real = "|1|JfKTdBh7rNbXkVAQCRp4OQoPfmI=|USECr3SWf1JUPsms5AqfD5QfxkM=";
    assert!(real.parse::<HostPatterns>().is_ok());
}

#[test]
fn a_revoked_key_is_revoked_wherever_it_also_stands() {
    assert_eq!(stands(&format!("host {A}\n@revoked * {A}\n"), "host", A), "revoked");
    assert_eq!(stands(&format!("@revoked\thost\t{A}\n"), "host", B), "new");
    assert_eq!(stands(&format!("@revoked other {A}\nhost {A}\n"), "host", A), "known");
    let found = known(&format!("@revoked * {B}\n@cert-authority * {A}\n"), "host");
    assert!(matches!(found.standing_of_authority(&key(B), &key(A)), Standing::Revoked(_)));
    assert!(matches!(found.standing_of_authority(&key(A), &key(A)), Standing::Known));
    assert!(matches!(found.standing_of_authority(&key(A), &key(B)), Standing::Revoked(_)));
    // An authority vouches for certificates, it is no key of the host.
    assert!(matches!(found.standing(&key(A)), Standing::New));
}

#[test]
fn a_bad_line_hides_no_other() {
    let text = format!(
        "host nonsense\nhost ssh-ed25519 !!!\n@strange host {A}\nhost\n|1|x|y {A}\n\u{fffd}\nhost {A}\n"
    );
    let found = known(&text, "host");
    assert!(matches!(found.standing(&key(A)), Standing::Known));
    assert_eq!(found.bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(found.keys[0].place.line, 7);
    // Bad lines of others are not ours to report.
    assert_eq!(known("other nonsense\n", "host").bad, []);
}

#[test]
fn files_are_read_in_order_and_may_be_absent() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::write(&one, format!("host {B}\n")).expect("written");
    std::fs::write(&two, [b"\xff\xfe junk\n", format!("host {A}\n").as_bytes()].concat()).expect("written");
    let files = ["/nonexistent".into(), "/dev/null".into(), dir.path().to_owned(), one, two];
    let found = KnownHosts::read(&files, "HOST");
    assert!(matches!(found.standing(&key(A)), Standing::Known));
    assert!(matches!(found.standing(&key(B)), Standing::Known));
    assert_eq!(found.keys[1].place.line, 2);
}
