//! Why a server did not let us in.

use super::clock::Late;
use super::config::SYSTEM_SSH;
use super::handler::NotText;

/// Why a server did not let us in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("{user} was not let in by {}", describe(.tried))]
    Refused {
        user: String,
        tried: Vec<String>,
        accepted: Vec<&'static str>,
        /// What the server accepts and the configuration asks for, and only the `ssh` program knows.
        foreign: Vec<&'static str>,
        problems: Vec<String>,
    },
    #[error("{user} was not let in: the server has accepted {steps} proofs and wants another one")]
    Endless { user: String, steps: u32 },
    #[error("the connection ended during authentication: {reason}")]
    Ended { reason: String },
    #[error(transparent)]
    NotText(#[from] NotText),
    #[error("{late}")]
    Late {
        late: Late,
        /// What was found before, which may be why.
        problems: Vec<String>,
    },
    #[error("the protocol failed")]
    Protocol(#[source] russh::Error),
}

impl From<Late> for AuthError {
    fn from(late: Late) -> Self {
        AuthError::Late { late, problems: Vec::new() }
    }
}

fn describe(tried: &[String]) -> String {
    let runs = tried.chunk_by(|one, next| one == next).map(|same| match same.len() {
        1 => same[0].clone(),
        times => format!("{} ({times} times)", same[0]),
    });
    let said = runs.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "anything, as there was nothing to try".to_owned() } else { said }
}

impl AuthError {
    /// What a person can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let (accepted, foreign, problems, tried) = match self {
            AuthError::Refused { accepted, foreign, problems, tried, .. } => {
                (accepted, foreign, problems, tried)
            }
            AuthError::Late { problems, .. } if !problems.is_empty() => return Some(problems.join("; ")),
            AuthError::NotText(_) => return Some(SYSTEM_SSH.to_owned()),
            _ => return None,
        };
        let mut hints = problems.clone();
        if !accepted.is_empty() {
            hints.push(format!("the server accepts {}", accepted.join(", ")));
        }
        if !foreign.is_empty() {
            hints.push(format!("for {}: {SYSTEM_SSH}", foreign.join(", ")));
        } else if tried.is_empty() {
            hints.push("name a key with IdentityFile, or start an agent that holds one".to_owned());
        }
        (!hints.is_empty()).then(|| hints.join("; "))
    }
}
