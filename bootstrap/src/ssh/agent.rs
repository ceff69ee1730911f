//! Asking an agent for its keys.
//!
//! The library asks too, but one entry that it does not understand costs it all the others. Frames and entries are those of
//! the agent protocol, draft-ietf-sshm-ssh-agent.

use std::path::Path;
use std::time::Duration;

use russh::keys::agent::client::AgentClient;
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use russh::keys::ssh_encoding::Decode;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, PublicKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest answer that is read, as with OpenSSH.
const LONGEST: u32 = 256 << 10;

/// The most keys that are read, as with OpenSSH.
const MOST: u32 = 2048;

/// `SSH_AGENTC_REQUEST_IDENTITIES`, as a frame.
const REQUEST: [u8; 5] = [0, 0, 0, 1, 11];

/// `SSH_AGENT_IDENTITIES_ANSWER`.
const ANSWER: u8 = 12;

/// An agent that answers, and what it holds.
pub(crate) struct Agent {
    pub client: AgentClient<UnixStream>,
    pub identities: Vec<AgentIdentity>,
}

/// Why an agent is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{0}")]
    Stream(#[from] std::io::Error),
    #[error("nothing came within {} s", .0.as_secs_f32())]
    Late(Duration),
    #[error("its answer is too long ({0} bytes)")]
    Long(u32),
    #[error("it refuses to list its keys")]
    Refused,
    #[error("its answer is not understood")]
    Malformed,
}

/// Meets the agent at `path` for the session that `binding` describes, within `limit`. What is wrong with single keys is
/// appended to `problems`. Cancelling closes the connection to the agent.
pub(crate) async fn meet(
    path: &Path,
    binding: Option<&AgentSessionBinding>,
    limit: Duration,
    problems: &mut Vec<String>,
) -> Result<Agent, AgentError> {
    let met = async {
        let mut stream = UnixStream::connect(path).await?;
        if let Some(binding) = binding {
            // Lets an agent use keys that are bound to destinations; agents that do not know this refuse it.
            let _ = AgentClient::connect(&mut stream).bind_session(binding, false).await;
        }
        let answer = ask(&mut stream).await?;
        let identities = listed(&answer, problems)?;
        Ok(Agent { client: AgentClient::connect(stream), identities })
    };
    tokio::time::timeout(limit, met).await.unwrap_or(Err(AgentError::Late(limit)))
}

/// Asks for the keys. Reads one frame and not a byte more, as what follows is the library's to read.
async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Vec<u8>, AgentError> {
    stream.write_all(&REQUEST).await?;
    stream.flush().await?;
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(AgentError::Long(length));
    }
    let mut answer = vec![0; length as usize];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Reads an answer to the question for keys.
fn listed(answer: &[u8], problems: &mut Vec<String>) -> Result<Vec<AgentIdentity>, AgentError> {
    let (kind, mut rest) = answer.split_first().ok_or(AgentError::Malformed)?;
    if *kind != ANSWER {
        return Err(AgentError::Refused);
    }
    let count = number(&mut rest).filter(|count| *count <= MOST).ok_or(AgentError::Malformed)?;
    let mut identities = Vec::new();
    for _ in 0..count {
        let (Some(blob), Some(comment)) = (string(&mut rest), string(&mut rest)) else {
            return Err(AgentError::Malformed);
        };
        let comment = String::from_utf8_lossy(comment).into_owned();
        match identity(blob, &comment) {
            Some(identity) => identities.push(identity),
            None => {
                let name = string(&mut &*blob).map(String::from_utf8_lossy).unwrap_or_default();
                let brief = |text: &str| text.chars().take(64).collect::<String>();
                problems.push(format!(
                    "the agent's key {:?} is of a kind that is not known here ({:?})",
                    brief(&comment),
                    brief(&name)
                ));
            }
        }
    }
    Ok(identities)
}

fn identity(mut blob: &[u8], comment: &str) -> Option<AgentIdentity> {
    /// Certificates are signed by plain keys, but the parser would follow one in a certificate as deep as its stack goes.
    const MARK: &[u8] = b"-cert-v01@";
    const NESTED: usize = 8;

    if blob.windows(MARK.len()).filter(|window| *window == MARK).count() > NESTED {
        return None;
    }
    let comment = comment.to_owned();
    if string(&mut &*blob)?.ends_with(b"-cert-v01@openssh.com") {
        return Some(AgentIdentity::Certificate {
            certificate: Certificate::decode(&mut blob).ok()?,
            comment,
        });
    }
    let key = KeyData::decode(&mut blob).ok()?;
    // Of others no part is known, and the library would read them as if they had a certain form.
    if matches!(key.algorithm(), Algorithm::Other(_)) {
        return None;
    }
    Some(AgentIdentity::PublicKey { key: PublicKey::from(key), comment })
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*number))
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).expect("short").to_be_bytes(), text].concat()
    }

    fn ed25519(byte: u8) -> Vec<u8> {
        [encoded(b"ssh-ed25519"), encoded(&[byte; 32])].concat()
    }

    fn answer(entries: &[(Vec<u8>, &[u8])]) -> Vec<u8> {
        let mut out = vec![ANSWER];
        out.extend(u32::try_from(entries.len()).expect("few").to_be_bytes());
        for (blob, comment) in entries {
            out.extend([encoded(blob), encoded(comment)].concat());
        }
        out
    }

    #[test]
    fn one_odd_entry_costs_itself_alone() {
        let odd = [encoded(b"ssh-odd\n@example.org"), encoded(b"x")].concat();
        let nested = [encoded(b"ssh-ed25519-cert-v01@openssh.com"), b"-cert-v01@".repeat(1000)].concat();
        let entries = [
            (ed25519(1), &b"first"[..]),
            (odd, b"odd"),
            (encoded(b"ssh-ed25519"), b"cut short"),
            (encoded(b"ssh-ed25519-cert-v01@openssh.com"), b"no certificate"),
            (nested, b"a well"),
            (vec![], b"nothing"),
            (vec![0xff; 7], b"noise"),
            (ed25519(2), b"not \xff UTF-8"),
        ];
        let mut problems = Vec::new();
        let found = listed(&answer(&entries), &mut problems).expect("a list");
        let comments: Vec<_> = found
            .iter()
            .map(|identity| match identity {
                AgentIdentity::PublicKey { comment, .. } | AgentIdentity::Certificate { comment, .. } => {
                    comment
                }
            })
            .collect();
        assert_eq!(comments, ["first", "not \u{fffd} UTF-8"]);
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(
            problems[0].contains(r#""odd""#) && problems[0].contains(r#""ssh-odd\n@example.org""#),
            "{problems:?}"
        );
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let read = |answer: &[u8]| listed(answer, &mut Vec::new());
        assert!(read(&answer(&[])).expect("an empty list").is_empty());
        assert!(matches!(read(&[5]), Err(AgentError::Refused)));
        let whole = answer(&[(ed25519(1), b"first"), (ed25519(2), b"second")]);
        for end in 0..whole.len() {
            assert!(matches!(read(&whole[..end]), Err(AgentError::Malformed)), "{end}");
        }
        for count in [MOST + 1, u32::MAX] {
            assert!(matches!(
                read(&[&[ANSWER][..], &count.to_be_bytes()].concat()),
                Err(AgentError::Malformed)
            ));
        }
    }

    #[tokio::test]
    async fn one_frame_is_read_and_not_more_than_its_bound() {
        for (length, more) in [(1, &b"\x0crest"[..]), (LONGEST + 1, b""), (u32::MAX, b"")] {
            let (mut agent, mut client) = tokio::io::duplex(64);
            agent.write_all(&[&length.to_be_bytes(), more].concat()).await.expect("room");
            let asked = ask(&mut client).await;
            if length == 1 {
                assert_eq!(asked.expect("a frame"), [ANSWER]);
                let mut rest = [0; 4];
                client.read_exact(&mut rest).await.expect("still there");
                assert_eq!(&rest, b"rest");
            } else {
                assert!(matches!(asked, Err(AgentError::Long(told)) if told == length));
            }
            let mut request = [0; 5];
            agent.read_exact(&mut request).await.expect("sent");
            assert_eq!(request, REQUEST);
        }
    }
}
