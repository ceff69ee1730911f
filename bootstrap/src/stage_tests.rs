//! The near half against a far half that is whole, cut anywhere, noisy, or lying.

use super::*;

const NONCE: [u8; 16] = *b"0123456789abcdef";

fn digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| {
        let path = std::env::current_exe().expect("a path");
        crate::artifact::Artifact::load(&path).expect("a program").digest()
    });
    *DIGEST
}

fn stage(options: &LaunchOptions) -> Stage {
    let platform = Platform::from_uname("Linux", "x86_64").expect("known");
    Stage::new(NONCE, options, digest(), &platform)
}

fn options() -> LaunchOptions {
    LaunchOptions { greeting: b"HELLO".to_vec(), ..LaunchOptions::default() }
}

fn marker() -> String {
    NONCE.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A far side that says these things, each when the near half waits for it. `~` stands for the marker.
/// Returns all that the near half wrote or was asked to do.
fn talk(stage: &mut Stage, says: &[&str], cut: usize) -> Result<Vec<String>, StageError> {
    let mut log = Vec::new();
    let says: Vec<String> = says.iter().map(|said| said.replace('~', &marker())).collect();
    let mut says = says.iter();
    loop {
        match stage.poll_action() {
            Action::Read => {
                let Some(said) = says.next() else { return Err(stage.handle_end()) };
                for piece in said.as_bytes().chunks(cut) {
                    stage.handle_bytes(piece)?;
                }
            }
            Action::Write(bytes) => log.push(format!("write {}", String::from_utf8_lossy(&bytes).trim_end())),
            Action::FindImage(platform) => {
                log.push(format!("find {platform}"));
                stage.image(digest());
            }
            Action::Prepare(form) => {
                log.push(format!("prepare {form:?}"));
                stage.offer(7, 9);
            }
            Action::Deliver(form) => {
                log.push(format!("deliver {form:?}"));
                stage.delivered();
            }
            Action::Ready => return Ok(log),
        }
    }
}

#[test]
fn the_far_half_is_one_line_that_no_login_shell_changes() {
    assert!(!SCRIPT.contains(['\'', '\\', '!', '\n', '\t']), "{}", *SCRIPT);
    assert!(SCRIPT.is_ascii());
    // Dropbear takes no longer command than 9000 bytes.
    assert!(SCRIPT.len() < 6700, "{}", SCRIPT.len());
    let line = stage(&LaunchOptions {
        arguments: vec!["it's \\ ! \n $HOME `id` *".into()],
        chdir: Some("-a b".into()),
        ..options()
    })
    .line();
    let (_, arguments) = line.rsplit_once('\'').expect("quoted");
    assert!(
        arguments.bytes().all(|b| b.is_ascii_alphanumeric() || b" ./:@%+,=-_".contains(&b)),
        "{arguments}"
    );
    assert!(arguments.split_whitespace().all(|word| word.starts_with(|c: char| c.is_ascii_alphanumeric())));
}

#[test]
fn the_command_does_not_contain_the_marker() {
    let stage = stage(&options());
    assert!(!stage.line().contains(&marker()));
    assert!(!stage.command().join(" ").contains(&marker()));
}

#[test]
fn values_of_variables_cross_only_when_asked_for_and_not_in_the_command() {
    let options = LaunchOptions {
        env: vec![("TOKEN".into(), "hun ter2".into()), ("B".into(), "".into())],
        ..options()
    };
    let mut stage = stage(&options);
    assert!(!stage.line().contains("ter2"));
    let log = talk(&mut stage, &["~ env\n", "~ run cached gnu Linux x86_64\nHELLO"], 100).expect("ready");
    assert_eq!(log, ["write TOKEN=hun_040ter2 B="]);
}

#[test]
fn a_worker_that_is_there_starts_without_a_word_from_us() {
    let mut stage = stage(&options());
    let log = talk(&mut stage, &["~ run cached musl Linux x86_64\nHELLO and more"], 1000).expect("ready");
    assert!(log.is_empty());
    assert_eq!(stage.how(), Some(How::Cached));
    assert_eq!(stage.spoken(), b"HELLO and more");
    assert_eq!(stage.platform(), Some(&Platform::from_uname("Linux", "x86_64").expect("known")));
}

const WHOLE: [&str; 5] = [
    "Welcome!\nno newline~ ask gnu Linux aarch64\n",
    "~ need gc gnu Linux aarch64\n",
    "~ go\n",
    "gzip: bad\n~ need gc gnu Linux aarch64\n",
    "~ go\n",
];

fn whole() -> Vec<&'static str> {
    let mut says = WHOLE.to_vec();
    says.extend(["~ env\n", "~ run kept gnu Linux aarch64\nHELLO!"]);
    says
}

fn with_variable() -> LaunchOptions {
    LaunchOptions { env: vec![("A".into(), "1".into())], ..options() }
}

#[test]
fn the_whole_dialogue_is_the_same_wherever_it_is_cut() {
    for cut in 1..200 {
        let mut stage = stage(&with_variable());
        let log = talk(&mut stage, &whole(), cut).expect("ready");
        let expected = [
            "find aarch64-linux".into(),
            format!("write {}", digest()),
            "prepare Packed".into(),
            "write gz 7 9".into(),
            "deliver Packed".into(),
            "prepare Raw".into(),
            "write raw 7 9".into(),
            "deliver Raw".into(),
            "write A=1".into(),
        ];
        assert_eq!(log, expected, "cut into {cut}");
        assert_eq!(stage.how(), Some(How::Kept));
        assert_eq!(stage.noise(), b"Welcome!\nno newlinegzip: bad\n");
        assert!(stage.spoken().starts_with(b"H"));
    }
}

#[test]
fn an_end_anywhere_is_an_end() {
    let all = whole();
    for end in 0..all.len() {
        for cut in [0, 1, 40] {
            let mut says = all[..=end].to_vec();
            let last = says.pop().expect("not empty");
            says.push(&last[..cut.min(last.len() - 2)]);
            let mut stage = stage(&with_variable());
            assert_eq!(talk(&mut stage, &says, 1000), Err(StageError::Ended), "{says:?}");
        }
    }
}

#[test]
fn noise_of_any_size_is_skipped_and_its_end_kept() {
    let mut stage = stage(&options());
    let mut noise: Vec<u8> =
        (0..3_000_000_u32).map(|i| b"0123456789abcdef\n\0\xff"[i as usize % 19]).collect();
    noise.extend(b"the last words");
    for piece in noise.chunks(65536) {
        stage.handle_bytes(piece).expect("noise is no error");
        assert!(stage.pending.len() < 65536 && stage.noise.len() <= EVIDENCE_LIMIT);
    }
    talk(&mut stage, &["~ run cached gnu Linux x86_64\nHELLO"], 7).expect("ready");
    assert_eq!(stage.noise().len(), EVIDENCE_LIMIT);
    assert!(stage.noise().ends_with(b"the last words"));
}

#[test]
fn a_terminal_in_between_is_noticed() {
    let mut stage = stage(&options());
    assert_eq!(talk(&mut stage, &["~ need gc gnu Linux x86_64\r\n"], 100), Err(StageError::Terminal));
}

#[test]
fn another_program_in_the_place_of_the_worker_is_noticed() {
    for said in ["HELP", "x", "\n"] {
        let mut stage = stage(&options());
        let said = format!("~ run cached gnu Linux x86_64\n{said}");
        assert_eq!(talk(&mut stage, &[&said], 1), Err(StageError::NotTheWorker));
    }
}

#[test]
fn reasons_of_the_far_side_arrive() {
    for (said, expected) in [
        ("folders /a b=not-ours /c=unwritable", StageError::Folders("/a b=not-ours /c=unwritable".into())),
        ("chdir", StageError::Chdir),
        ("nice", StageError::Nice),
        ("memory", StageError::Memory),
    ] {
        let said = format!("~ fail {said}\n");
        assert_eq!(talk(&mut stage(&options()), &[&said], 3), Err(expected));
    }
}

#[test]
fn what_does_not_belong_there_ends_the_dialogue() {
    let run = "~ run cached gnu Linux x86_64\n";
    let need = "~ need c gnu Linux x86_64\n";
    let lies: &[&[&str]] = &[
        &["~ go\n"],
        &["~ nonsense\n"],
        &["~\n"],
        &["~go\n"],
        &["~ ask\n"],
        &["~ ask gnu Linux ../../x\n"],
        &["~ ask bsd Linux x86_64\n"],
        &["~ need gc gnu Linux\n"],
        &["~ env\n"],                       // none was promised
        &["~ run kept gnu Linux x86_64\n"], // nothing was sent
        &["~ run gone gnu Linux x86_64\n"],
        &["~ run away gnu Linux x86_64\n"],
        &["~ ask gnu Linux x86_64\n~ ask gnu Linux x86_64\n"], // did not wait for the answer
        &["~ need c gnu Linux x86_64\n~ go\n"],
        &[need, run],
        &[need, "~ go\n~ go\n"],
        &[need, "~ ask gnu Linux x86_64\n"],
        &["~ fail oddly\n"],
    ];
    for says in lies {
        let mut stage = stage(&options());
        let result = talk(&mut stage, says, 1000);
        assert!(matches!(result, Err(StageError::Unexpected(_))), "{says:?}: {result:?}");
    }
}

#[test]
fn a_far_side_that_is_never_content_is_given_up() {
    let mut says = Vec::new();
    for _ in 0..ATTEMPT_LIMIT + 1 {
        says.extend(["~ need gc gnu Linux x86_64\n", "~ go\n"]);
    }
    assert_eq!(talk(&mut stage(&options()), &says, 1000), Err(StageError::Attempts));
}

#[test]
fn a_message_without_end_is_refused() {
    let mut stage = stage(&options());
    stage.handle_bytes(marker().as_bytes()).expect("not yet");
    let result = (0..LINE_LIMIT).try_for_each(|_| stage.handle_bytes(b"x"));
    assert!(matches!(result, Err(StageError::Unexpected(_))));
}

#[test]
fn random_bytes_never_panic_and_never_pile_up() {
    let mut state = 7_u64;
    let words = [
        "~", " ", "need", "ask", "go", "run", "env", "fail", "gnu", "Linux", "x86_64", "kept", "\n", "\r",
        "é",
    ];
    for _ in 0..3000 {
        let mut stage = stage(&with_variable());
        for _ in 0..60 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = words[(state >> 33) as usize % words.len()].replace('~', &marker());
            if stage.handle_bytes(word.as_bytes()).is_err() {
                break;
            }
            assert!(stage.pending.len() <= LINE_LIMIT + 64);
            match stage.poll_action() {
                Action::FindImage(..) => stage.image(digest()),
                Action::Prepare(_) => stage.offer(1, 1),
                Action::Deliver(_) => stage.delivered(),
                Action::Read | Action::Write(_) => {}
                Action::Ready => break,
            }
        }
    }
}
