//! Which lines of a configuration mean the same to our parser as to every version of `ssh`.
//!
//! Where all do, `ssh` need not be asked, which takes longer than a whole connection. What is listed here is old, has one
//! meaning, and is written without quotation marks, tokens of the environment and the like. For anything else, and for what
//! `ssh` may find fault with, the program is asked: it is right by definition.
//!
//! Keywords and their forms are those of ssh_config(5).

/// How a value is written.
enum Form {
    /// yes or no.
    Flag,
    /// A decimal number.
    Number,
    /// One word that is taken as it is.
    Word,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A list of algorithms by name, all of them from [`ALGORITHMS`].
    Algorithms,
    /// Any number of words.
    Words,
}

/// Algorithms that every version knows.
const ALGORITHMS: [&str; 20] = [
    "aes128-ctr",
    "aes128-gcm@openssh.com",
    "aes192-ctr",
    "aes256-ctr",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "diffie-hellman-group16-sha512",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "ecdsa-sha2-nistp256",
    "hmac-sha2-256",
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512",
    "hmac-sha2-512-etm@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-512",
    "ssh-ed25519",
];

fn form(keyword: &str) -> Option<Form> {
    Some(match keyword {
        "batchmode"
        | "compression"
        | "gssapiauthentication"
        | "gssapidelegatecredentials"
        | "hashknownhosts"
        | "identitiesonly"
        | "passwordauthentication"
        | "pubkeyauthentication"
        | "tcpkeepalive" => Form::Flag,
        "connecttimeout"
        | "numberofpasswordprompts"
        | "port"
        | "serveralivecountmax"
        | "serveraliveinterval" => Form::Number,
        "hostkeyalias" | "hostname" | "identityagent" | "identityfile" | "certificatefile" | "proxyjump"
        | "user" => Form::Word,
        "addressfamily" => Form::OneOf(&["any", "inet", "inet6"]),
        "forwardagent" | "forwardx11" | "visualhostkey" => Form::OneOf(&["no"]),
        "loglevel" => Form::OneOf(&["QUIET", "FATAL", "ERROR", "INFO", "VERBOSE", "DEBUG"]),
        "stricthostkeychecking" => Form::OneOf(&["yes", "no", "ask"]),
        "ciphers" | "hostkeyalgorithms" | "kexalgorithms" | "macs" => Form::Algorithms,
        "globalknownhostsfile" | "host" | "include" | "sendenv" | "userknownhostsfile" => Form::Words,
        _ => return None,
    })
}

/// Whether a line is plain: its keyword in lower case, what follows it as it is written, and the same cut into words.
pub(crate) fn is_plain(keyword: &str, written: &str, words: &[String]) -> bool {
    let simple = |c: char| c.is_ascii_alphanumeric() || " \t-_./,:@*?!~+".contains(c);
    // Of homes, the own one only.
    let homes = words.iter().filter(|word| word.contains('~')).all(|word| word.rfind("~/") == Some(0));
    if !written.chars().all(simple) || !homes {
        return false;
    }
    match (form(keyword), words) {
        (None, _) | (_, []) => false,
        (Some(Form::Words), _) => true,
        (Some(form), [word]) => match form {
            Form::Flag => matches!(word.as_str(), "yes" | "no"),
            // No port is greater, and no sensible time.
            Form::Number => {
                word.bytes().all(|c| c.is_ascii_digit()) && word.parse::<u16>().is_ok_and(|n| n > 0)
            }
            Form::OneOf(values) => values.contains(&word.as_str()),
            Form::Algorithms => word.split(',').all(|name| ALGORITHMS.contains(&name)),
            Form::Word | Form::Words => true,
        },
        (Some(_), _) => false,
    }
}

/// Whether a host is called so that nobody would change it.
pub(crate) fn is_plain_host(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-._".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::config_file::words;

    fn plain(keyword: &str, written: &str) -> bool {
        is_plain(keyword, written, &words(written).unwrap())
    }

    #[test]
    fn what_everybody_writes_is_plain() {
        for (keyword, value) in [
            ("host", "web* !web1 10.0.0.?"),
            ("hostname", "web1.example.org"),
            ("user", "deploy"),
            ("port", "2222"),
            ("port", "65535"),
            ("identityfile", "~/.ssh/id_web"),
            ("identitiesonly", "yes"),
            ("proxyjump", "u@bastion:2222,second"),
            ("userknownhostsfile", "/one /two"),
            ("sendenv", "LANG LC_*"),
            ("ciphers", "aes128-gcm@openssh.com,aes256-ctr"),
        ] {
            assert!(plain(keyword, value), "{keyword} {value}");
        }
    }

    #[test]
    fn what_may_mean_something_else_is_not() {
        for (keyword, value) in [
            ("match", "all"),
            ("canonicalizehostname", "yes"),
            ("proxycommand", "nc host 22"),
            ("hostname", "%h.example.org"),
            ("identityfile", "\"/with a space\""),
            ("identityfile", "${HOME}/key"),
            ("identityfile", "/one /two"),
            ("identityfile", "~other/key"),
            ("user", "x # me"),
            ("port", "0"),
            ("port", "http"),
            ("port", "99999"),
            ("identitiesonly", "maybe"),
            ("stricthostkeychecking", "accept-new"),
            ("ciphers", "+aes128-cbc"),
            ("ciphers", "none-such"),
            ("nosuchkeyword", "yes"),
        ] {
            assert!(!plain(keyword, value), "{keyword} {value}");
        }
        assert!(!is_plain("user", "", &[]));
        assert!(is_plain_host("web-1.example.org"));
        for host in ["", "Web1", "u@h", "fe80::1%lo"] {
            assert!(!is_plain_host(host));
        }
    }
}
