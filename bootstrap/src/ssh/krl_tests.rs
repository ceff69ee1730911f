use std::path::Path;
use std::process::Command;

use farcall_test_support::{Authority, Certify, KeyKind, KeyPair};

use super::*;

fn keygen(arguments: &[&str]) -> std::process::Output {
    Command::new("ssh-keygen")
        .args(arguments)
        .output()
        .expect("ssh-keygen must be installed (openssh-client)")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What a list says of the key, or the certificate, in a file.
fn ours(list: &[u8], file: &Path) -> Result<bool, KrlError> {
    let line = std::fs::read_to_string(file).expect("written");
    match Certificate::from_openssh(&line) {
        Ok(certificate) => revokes(list, certificate.public_key(), Some(&certificate)),
        Err(_) => {
            let key = PublicKey::from_openssh(&line).expect("a key");
            revokes(list, key.key_data(), None)
        }
    }
}

/// Keys, and certificates of two authorities, each with a number and a name.
struct Scene {
    folder: tempfile::TempDir,
    authorities: [Authority; 2],
    files: Vec<std::path::PathBuf>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = |name: &str, kind| KeyPair::generate(folder.path().join(name), kind, "");
        let authorities = [Authority(key("ca0", KeyKind::Ed25519)), Authority(key("ca1", KeyKind::Ecdsa))];
        let mut files =
            vec![key("ecdsa", KeyKind::Ecdsa).public_path(), key("rsa", KeyKind::Rsa).public_path()];
        let subject = key("key", KeyKind::Ed25519);
        files.push(subject.public_path());
        for (n, authority) in authorities.iter().enumerate() {
            for serial in [0, 1, 5, 6, 7, 10, 12, 14, 15, 16, 20, 40, 1_u64 << 40] {
                let (number, id) = (serial.to_string(), format!("host {serial}"));
                let more = ["-z", &number, "-I", &id];
                authority.certify(&subject, Certify { host: true, more: &more, ..Certify::default() });
                let file = folder.path().join(format!("cert-{n}-{serial}.pub"));
                std::fs::rename(subject.certificate_path(), &file).expect("there");
                files.push(file);
            }
        }
        Self { folder, authorities, files }
    }

    /// A list made by ssh-keygen of a specification, for an authority's certificates where one is named.
    fn list(&self, specification: &str, authority: Option<usize>) -> std::path::PathBuf {
        let (from, to) = (self.folder.path().join("spec"), self.folder.path().join("krl"));
        std::fs::write(&from, specification).expect("written");
        let authority = authority.map(|n| self.authorities[n].0.public_path());
        let mut arguments = vec!["-k", "-q", "-f", text(&to)];
        if let Some(authority) = &authority {
            arguments.extend(["-s", text(authority)]);
        }
        arguments.push(text(&from));
        let output = keygen(&arguments);
        assert!(output.status.success(), "{specification}: {}", String::from_utf8_lossy(&output.stderr));
        to
    }
}

#[test]
fn lists_are_understood_as_by_the_program_that_makes_them() {
    let scene = Scene::new();
    let file = |n: usize| std::fs::read_to_string(&scene.files[n]).expect("written");
    let hash = |kind: &str, n: usize| {
        let output = keygen(&["-l", "-E", kind, "-f", text(&scene.files[n])]);
        String::from_utf8(output.stdout).expect("text").split(' ').nth(1).expect("a hash").to_owned()
    };
    // Every second of many becomes a bitmap.
    let many: String = (0..200).map(|n| format!("serial: {}\n", 2 * n + 2)).collect();
    let specifications = [
        (String::new(), None),
        (file(0), None),
        (file(2), None),
        (format!("{}{}", file(1), file(2)), None),
        (format!("sha1: {}", file(1)), None),
        (format!("sha256: {}", file(2)), None),
        (format!("hash: {}\n", hash("sha256", 0)), None),
        (std::fs::read_to_string(scene.authorities[1].0.public_path()).expect("written"), None),
        (file(6), None),
        ("serial: 5\nserial: 7\n".into(), Some(0)),
        ("serial: 5\nserial: 1099511627776\n".into(), Some(1)),
        ("serial: 10-15\n".into(), Some(0)),
        (many, Some(1)),
        ("id: host 20\nid: host 0\n".into(), Some(0)),
        (format!("serial: 1-6\nid: host 40\nsha256: {}", file(0)), Some(1)),
    ];
    let (mut refused, mut passed) = (0, 0);
    for (specification, authority) in &specifications {
        let path = scene.list(specification, *authority);
        let list = std::fs::read(&path).expect("made");
        assert!(is_krl(&list));
        for file in &scene.files {
            let output = keygen(&["-Q", "-f", text(&path), text(file)]);
            let said = String::from_utf8_lossy(&output.stdout);
            let theirs = match (said.contains(": REVOKED"), said.contains(": ok")) {
                (true, false) => true,
                (false, true) => false,
                _ => panic!("{said} {}", String::from_utf8_lossy(&output.stderr)),
            };
            assert_eq!(ours(&list, file), Ok(theirs), "{} by {specification}", file.display());
            *(if theirs { &mut refused } else { &mut passed }) += 1;
        }
    }
    assert!(refused > 60 && passed > 60, "{refused} {passed}");
}

#[test]
fn a_damaged_list_is_an_error_and_never_a_pass() {
    let scene = Scene::new();
    let specification = format!(
        "serial: 1-6\nserial: 10\nid: host 40\nsha256: {0}sha1: {0}{0}",
        std::fs::read_to_string(&scene.files[0]).expect("written")
    );
    let whole = std::fs::read(scene.list(&specification, Some(1))).expect("made");
    let file = &scene.files[1];
    assert_eq!(ours(&whole, file), Ok(false));
    for length in 0..whole.len() {
        // An end between two parts cannot be told from the end.
        match ours(&whole[..length], file) {
            Err(KrlError::Truncated) => {}
            other => assert_eq!(other, Ok(false), "{length}"),
        }
        assert!(length >= 44 || ours(&whole[..length], file).is_err(), "{length}: no whole head");
        let mut spoilt = whole.clone();
        spoilt[length] ^= 0xff;
        // Whatever it says, it says so without a panic.
        let _ = ours(&spoilt, file);
    }
    let with = |more: &[u8]| ours(&[whole.as_slice(), more].concat(), file);
    assert_eq!(with(&[9, 0, 0, 0, 0]), Err(KrlError::Part(9)));
    assert_eq!(with(&[255, 0, 0, 0, 9, 0, 0, 0, 0, 1, 0, 0, 0, 0]), Err(KrlError::Extension));
    assert_eq!(with(&[255, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(false));
    assert_eq!(with(&[4, 0, 0, 0, 1, 7, 0, 0, 0, 1, 7]), Ok(false));
    let mut other = whole.clone();
    other[11] = 2;
    assert_eq!(ours(&other, file), Err(KrlError::Version(2)));
}
