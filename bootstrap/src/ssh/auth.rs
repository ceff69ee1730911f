//! Proving to a server who we are.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;

use super::agent::{self, Agent};
use super::algorithms::AcceptedKeys;
use super::auth_error::AuthError;
use super::clock::Clock;
use super::config::{Config, Method, SYSTEM_SSH};
use super::handler::{Client, NotText, SharedReport};
use super::identity::{Identity, Shown, SignedBy, gather};
use super::key_length;
use super::options::{Question, SshOptions};
use super::proof::{Asker, KeySigner, SignError};

/// How often a server may accept a proof and want another one. Each method once, and each of a hardened server's keys, are
/// far fewer.
const STEPS: u32 = 16;

/// How long an agent may take to list its keys where there are keys in files too.
const AGENT_LIMIT: Duration = Duration::from_secs(5);

/// Authenticates on a fresh connection. Returns whether a person gave an answer that holds for this connection alone: a
/// passphrase is for the keyring and does not count. Cancelling leaves the connection unusable.
pub(crate) async fn authenticate(
    handle: &mut Handle<Client>,
    config: &Config,
    options: &SshOptions,
    clock: &Clock,
    report: &SharedReport,
) -> Result<bool, AuthError> {
    let unverified = report.lock().unwrap_or_else(PoisonError::into_inner).unverified;
    let can_ask = config.prompts > 0 && options.prompter.is_some();
    let methods: Vec<Method> = config
        .methods
        .iter()
        .copied()
        // A host that may not be the one we mean is not told a password, as with ssh.
        .filter(|method| *method == Method::PublicKey || (can_ask && !unverified))
        .collect();
    let mut problems = Vec::new();
    let mut agent = None;
    let mut identities = Vec::new();
    if methods.contains(&Method::PublicKey) {
        agent = meet_agent(handle, config, clock, &mut problems).await;
        let held = agent.as_ref().map(|agent| agent.identities.as_slice()).unwrap_or_default();
        identities = gather(config, held, &mut problems);
        if config.token_keys {
            problems.push(format!("keys of PKCS11Provider are not used: {SYSTEM_SSH}"));
        }
    }
    let asker = Asker {
        prompter: if config.prompts > 0 { options.prompter.as_deref() } else { None },
        keyring: &options.keyring,
        prompts: config.prompts,
        clock,
        asked: AtomicBool::new(false),
        waits_for_agent: AtomicBool::new(false),
    };
    let conversation = Conversation {
        handle,
        config,
        clock,
        report,
        asker,
        agent: agent.map(|agent| agent.client),
        tried: Vec::new(),
        problems,
        rsa_hash: None,
    };
    conversation.run(&methods, identities).await
}

/// Finds the agent. None, or one that does not answer, is no error: there may be files, for which it must leave time.
async fn meet_agent(
    handle: &Handle<Client>,
    config: &Config,
    clock: &Clock,
    problems: &mut Vec<String>,
) -> Option<Agent> {
    let path = config.agent.as_ref()?;
    // One that waits for a person, to confirm the use of a key, answers nobody else meanwhile.
    let can_do_without = config.identity_files.iter().any(|file| file.exists());
    let limit = if can_do_without { AGENT_LIMIT.min(clock.left() / 3) } else { clock.left() };
    match agent::meet(path, handle.agent_session_binding(), limit, problems).await {
        Ok(agent) => Some(agent),
        Err(e) => {
            problems.push(format!("the agent at {} does not answer: {e}", path.display()));
            None
        }
    }
}

struct Conversation<'a> {
    handle: &'a mut Handle<Client>,
    config: &'a Config,
    clock: &'a Clock,
    report: &'a SharedReport,
    asker: Asker<'a>,
    agent: Option<AgentClient<UnixStream>>,
    tried: Vec<String>,
    problems: Vec<String>,
    /// The hash for RSA signatures, once asked: `Some(None)` when the server only knows SHA-1.
    rsa_hash: Option<Option<HashAlg>>,
}

/// How an attempt ended, other than by error.
enum Outcome {
    In,
    /// The server goes on with these methods; `true` when it accepted this one and wants another as well.
    Refused(MethodSet, bool),
    /// Nothing was sent.
    Skipped,
}

impl From<AuthResult> for Outcome {
    fn from(result: AuthResult) -> Self {
        match result {
            AuthResult::Success => Outcome::In,
            AuthResult::Failure { remaining_methods, partial_success } => {
                Outcome::Refused(remaining_methods, partial_success)
            }
        }
    }
}

/// The keys to show, each once a round.
struct Ring {
    identities: Vec<Identity>,
    at: usize,
    left: usize,
}

impl Ring {
    fn new(identities: Vec<Identity>) -> Self {
        Self { at: 0, left: identities.len(), identities }
    }

    fn has_more(&self) -> bool {
        self.left > 0
    }

    fn next(&mut self) -> Option<Identity> {
        self.left = self.left.checked_sub(1)?;
        let identity = self.identities.get(self.at).cloned();
        self.at = (self.at + 1) % self.identities.len();
        identity
    }

    /// Begins another round: from the first, or behind a key that was just accepted, as a server that wants two keys does not
    /// want one twice.
    fn again(&mut self, was_accepted: bool) {
        self.left = self.identities.len();
        if !was_accepted {
            self.at = 0;
        }
    }
}

impl Conversation<'_> {
    async fn run(mut self, methods: &[Method], identities: Vec<Identity>) -> Result<bool, AuthError> {
        let mut ended = self.converse(methods, identities).await;
        if let Err(AuthError::Late { problems, .. }) = &mut ended {
            if self.asker.waits_for_agent.load(Relaxed) {
                self.problems.push("the agent was asked for a signature and has not answered".to_owned());
            }
            *problems = self.problems;
        }
        ended
    }

    async fn converse(&mut self, methods: &[Method], identities: Vec<Identity>) -> Result<bool, AuthError> {
        let mut identities = Ring::new(identities);
        let mut failures = 0;
        let mut steps = 0;
        let mut exhausted: Vec<Method> = Vec::new();
        // What the server accepts is learnt from its first refusal. With a key to show, showing it is the first
        // question, which saves a round trip over asking with nothing.
        let mut accepted: Option<MethodSet> = None;
        let key_first = methods.first() == Some(&Method::PublicKey) && identities.has_more();
        if !key_first {
            let user = self.config.user.clone();
            let result = self.clock.within(self.handle.authenticate_none(user)).await?;
            match Outcome::from(self.protocol(result)?) {
                Outcome::In => return Ok(false),
                Outcome::Refused(left, _) => accepted = Some(self.still_there(left)?),
                Outcome::Skipped => {}
            }
        }
        loop {
            let open = |method: &Method| {
                let kind = kind_of(*method);
                !exhausted.contains(method)
                    && accepted.as_ref().is_none_or(|accepted| accepted.contains(&kind))
            };
            let Some(method) = methods.iter().copied().find(open) else { break };
            let outcome = match method {
                Method::PublicKey => match identities.next() {
                    Some(identity) => self.show_key(identity).await?,
                    None => Outcome::Skipped,
                },
                Method::Password => self.send_password(failures).await?,
                Method::KeyboardInteractive => self.answer_questions().await?,
            };
            match outcome {
                Outcome::In => return Ok(self.asker.asked.load(Relaxed)),
                Outcome::Refused(left, partial) => {
                    let left = self.still_there(left)?;
                    accepted = Some(left);
                    if partial {
                        steps += 1;
                        if steps > STEPS {
                            return Err(AuthError::Endless { user: self.config.user.clone(), steps: STEPS });
                        }
                        // What was refused before may be what is wanted next.
                        identities.again(method == Method::PublicKey);
                        exhausted.clear();
                        failures = 0;
                    } else if method != Method::PublicKey {
                        failures += 1;
                        if failures >= self.config.prompts {
                            exhausted.push(method);
                            failures = 0;
                        }
                    }
                }
                Outcome::Skipped if method == Method::PublicKey && identities.has_more() => {}
                Outcome::Skipped => exhausted.push(method),
            }
        }
        let accepted: Vec<&str> =
            accepted.map(|set| set.iter().map(<&str>::from).collect()).unwrap_or_default();
        let foreign = self.config.foreign.iter().copied().filter(|name| accepted.contains(name)).collect();
        if self.tried.is_empty() {
            let missing = self.config.identity_files.iter().filter(|file| !file.exists());
            let names: Vec<_> = missing.map(|file| file.display().to_string()).collect();
            if !names.is_empty() {
                self.problems.push(format!("there is no {}", names.join(", no ")));
            }
        }
        Err(AuthError::Refused {
            user: self.config.user.clone(),
            tried: std::mem::take(&mut self.tried),
            accepted,
            foreign,
            problems: std::mem::take(&mut self.problems),
        })
    }

    /// Notes what a person should know, once however many rounds there are.
    fn problem(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The library reports a connection that ended as a refusal with no methods left.
    fn still_there(&self, left: MethodSet) -> Result<MethodSet, AuthError> {
        if !left.is_empty() {
            return Ok(left);
        }
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if report.not_text {
            return Err(NotText.into());
        }
        match report.ended.clone() {
            Some(reason) => Err(AuthError::Ended { reason }),
            None if self.handle.is_closed() => {
                Err(AuthError::Ended { reason: "the server closed it".into() })
            }
            None => Ok(left),
        }
    }

    async fn show_key(&mut self, identity: Identity) -> Result<Outcome, AuthError> {
        let label = identity.label();
        // A file whose public half is not known is unlocked before anything can be shown.
        let shown = match (identity.shown, &identity.signer) {
            (Shown::Locked, SignedBy::File(path)) => match self.asker.unlock(path).await {
                Ok(key) => Shown::Key(key.public_key().clone()),
                Err(e) => {
                    self.problem(format!("{} {e}", path.display()));
                    return Ok(Outcome::Skipped);
                }
            },
            (Shown::Locked, SignedBy::Agent(_)) => return Ok(Outcome::Skipped),
            (shown, _) => shown,
        };
        let (algorithm, key, certified) = match &shown {
            Shown::Key(key) => (key.algorithm(), key.key_data(), false),
            Shown::Certificate(certificate) => (certificate.algorithm(), certificate.public_key(), true),
            Shown::Locked => return Ok(Outcome::Skipped),
        };
        if let Err(short) = key_length::check(key, self.config.required_rsa_bits) {
            self.problem(format!("{label}: {short}"));
            return Ok(Outcome::Skipped);
        }
        let hash = match self.hash_for(&algorithm, certified).await? {
            Ok(hash) => hash,
            Err(reason) => {
                self.problem(format!("{label}: {reason}"));
                return Ok(Outcome::Skipped);
            }
        };
        self.tried.push(label.clone());
        let user = self.config.user.clone();
        let mut signer =
            KeySigner { signed_by: identity.signer, agent: self.agent.as_mut(), asker: &self.asker };
        let result = match shown {
            Shown::Key(key) => {
                self.clock
                    .within(self.handle.authenticate_publickey_with(user, key, hash, &mut signer))
                    .await?
            }
            Shown::Certificate(certificate) => {
                let attempt =
                    self.handle.authenticate_certificate_with(user, *certificate, hash, &mut signer);
                self.clock.within(attempt).await?
            }
            Shown::Locked => return Ok(Outcome::Skipped),
        };
        match result {
            Ok(result) => Ok(result.into()),
            Err(SignError::Gone) => {
                self.still_there(MethodSet::empty())?;
                Err(AuthError::Ended { reason: "the server closed it".into() })
            }
            // The server would have taken the key, but it could not be used: on to the next.
            Err(e) => {
                self.problem(format!("{label}: {e}"));
                Ok(Outcome::Skipped)
            }
        }
    }

    /// The hash that a key signs with, which RSA leaves open; or why it may not be used.
    async fn hash_for(
        &mut self,
        key: &Algorithm,
        certified: bool,
    ) -> Result<Result<Option<HashAlg>, &'static str>, AuthError> {
        const FORBIDDEN: &str = "PubkeyAcceptedAlgorithms does not allow a key of its kind";
        let accepted = AcceptedKeys::of(&self.config.algorithms);
        if !matches!(key, Algorithm::Rsa { .. }) {
            return Ok(if accepted.allows_key(key, certified) { Ok(None) } else { Err(FORBIDDEN) });
        }
        let hashes = accepted.rsa_hashes(certified);
        let Some(&first) = hashes.first() else { return Ok(Err(FORBIDDEN)) };
        let hash = match self.rsa_hash().await? {
            None => Err("the server takes RSA keys with SHA-1 only"),
            // Who knows the better one knows the other.
            Some(HashAlg::Sha512) => Ok(first),
            Some(only) if hashes.contains(&only) => Ok(only),
            Some(_) => Err("PubkeyAcceptedAlgorithms does not allow the signature that the server takes"),
        };
        Ok(hash.map(Some))
    }

    async fn rsa_hash(&mut self) -> Result<Option<HashAlg>, AuthError> {
        if let Some(known) = self.rsa_hash {
            return Ok(known);
        }
        let told = self.clock.within(self.handle.best_supported_rsa_hash()).await?;
        let hash = match self.protocol(told)? {
            Some(hash) => hash,
            // A server that does not say is one from before 2017, or terse; try the better one.
            None => Some(HashAlg::Sha512),
        };
        self.rsa_hash = Some(hash);
        Ok(hash)
    }

    async fn send_password(&mut self, failures: u32) -> Result<Outcome, AuthError> {
        let (user, host) = (self.config.user.clone(), self.config.original.clone());
        let question = Question::Password { user: user.clone(), host, failures };
        let Some(password) = self.asker.ask(question).await else { return Ok(Outcome::Skipped) };
        self.tried.push("password".to_owned());
        // The library wipes its copy.
        let attempt = self.handle.authenticate_password(user, password.expose());
        let attempted = self.clock.within(attempt).await?;
        Ok(self.protocol(attempted)?.into())
    }

    async fn answer_questions(&mut self) -> Result<Outcome, AuthError> {
        let (user, host) = (self.config.user.clone(), self.config.original.clone());
        let start = self.handle.authenticate_keyboard_interactive_start(user.clone(), None);
        let started = self.clock.within(start).await?;
        let mut response = self.protocol(started)?;
        let mut declined = false;
        self.tried.push("keyboard-interactive".to_owned());
        loop {
            let (instructions, prompts) = match response {
                KeyboardInteractiveAuthResponse::Success => return Ok(Outcome::In),
                KeyboardInteractiveAuthResponse::Failure { .. } if declined => return Ok(Outcome::Skipped),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                    return Ok(Outcome::Refused(remaining_methods, partial_success));
                }
                KeyboardInteractiveAuthResponse::InfoRequest { instructions, prompts, .. } => {
                    (instructions, prompts)
                }
            };
            let mut answers = Vec::with_capacity(prompts.len());
            for prompt in prompts {
                let question = Question::Server {
                    user: user.clone(),
                    host: host.clone(),
                    instructions: instructions.clone(),
                    prompt: prompt.prompt,
                    echo: prompt.echo,
                };
                let answer = if declined { None } else { self.asker.ask(question).await };
                declined |= answer.is_none();
                // The server waits for as many answers as it asked for. The library takes them as plain strings.
                answers.push(answer.map(|answer| answer.expose().to_owned()).unwrap_or_default());
            }
            let respond = self.handle.authenticate_keyboard_interactive_respond(answers);
            let responded = self.clock.within(respond).await?;
            response = self.protocol(responded)?;
        }
    }

    fn protocol<T>(&self, result: Result<T, russh::Error>) -> Result<T, AuthError> {
        result.map_err(|e| match e {
            russh::Error::RecvError | russh::Error::SendError => match self.still_there(MethodSet::empty()) {
                Err(ended) => ended,
                Ok(_) => AuthError::Ended { reason: "the server closed it".into() },
            },
            e => AuthError::Protocol(e),
        })
    }
}

fn kind_of(method: Method) -> MethodKind {
    match method {
        Method::PublicKey => MethodKind::PublicKey,
        Method::KeyboardInteractive => MethodKind::KeyboardInteractive,
        Method::Password => MethodKind::Password,
    }
}
