//! What people and programs read: whole outputs, as they are written.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::hosts::error::Source;
use crate::hosts::evaluate;
use crate::hosts::groups::Groups;
use crate::outcome::{Failure, FailureClass};

/// A writer whose bytes the test sees.
#[derive(Clone, Default)]
pub(crate) struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A run on `set`, told by events.
struct Run {
    output: Output,
    hosts: Arc<[Host]>,
    out: Page,
    err: Page,
}

impl Run {
    fn new(set: &str, options: Options) -> Self {
        Self::with_color(set, options, false)
    }

    fn with_color(set: &str, options: Options, color: bool) -> Self {
        let set = evaluate(set, Source::Argument, &Groups::default()).unwrap();
        let hosts: Arc<[Host]> = set.iter().cloned().collect();
        let (out, err) = (Page::default(), Page::default());
        let screen = Screen::new(Box::new(out.clone()), Box::new(err.clone()), color, color);
        let mut output = Output::new(hosts.clone(), &options, screen, Progress::hidden()).unwrap();
        for i in 0..hosts.len() {
            output.handle(Event::Started { host: HostId(i) }).unwrap();
        }
        Run { output, hosts, out, err }
    }

    fn id(&self, name: &str) -> HostId {
        HostId(self.hosts.iter().position(|host| host.name() == name).unwrap())
    }

    fn out(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.says(name, Stream::Stdout, bytes.as_ref())
    }

    fn err(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.says(name, Stream::Stderr, bytes.as_ref())
    }

    fn says(&mut self, name: &str, stream: Stream, bytes: &[u8]) -> &mut Self {
        let event = Event::Output { host: self.id(name), stream, bytes: bytes.to_vec() };
        self.output.handle(event).unwrap();
        self
    }

    fn ends(&mut self, name: &str, outcome: Outcome) -> &mut Self {
        let host = self.id(name);
        let elapsed = Duration::from_millis(1234);
        self.output.handle(Event::Finished { host, outcome, elapsed }).unwrap();
        self
    }

    fn exits(&mut self, name: &str, code: u8) -> &mut Self {
        self.ends(name, Outcome::Exited { code })
    }

    fn written(&self) -> (String, String) {
        (self.out.text(), self.err.text())
    }

    fn end(self) -> (String, String) {
        self.output.end().unwrap();
        (self.out.text(), self.err.text())
    }
}

fn layout(layout: Layout) -> Options {
    Options { layout, ..Options::default() }
}

fn refused() -> Outcome {
    failed(FailureClass::Connect, "connection refused", "", None)
}

fn failed(class: FailureClass, message: &str, evidence: &str, hint: Option<&str>) -> Outcome {
    Outcome::Failed(Failure {
        class,
        step: "connect".to_owned(),
        message: message.to_owned(),
        evidence: evidence.to_owned(),
        hint: hint.map(str::to_owned),
    })
}

#[test]
fn live_lines_carry_their_host_and_are_never_mixed() {
    let mut run = Run::new("web[1-2]", Options::default());
    run.out("web1", "one\ntw").out("web2", "eins\n").err("web1", "oops").out("web1", "o\n");
    assert_eq!(run.written(), ("web1: one\nweb2: eins\nweb1: two\n".into(), "".into()));
    run.err("web1", "!\n").out("web2", "no end").exits("web1", 0).exits("web2", 0);
    assert_eq!(run.written().1, "web1: oops!\n");
    let (out, err) = run.end();
    assert_eq!(out, "web1: one\nweb2: eins\nweb1: two\nweb2: no end\n");
    assert_eq!(err, "web1: oops!\n2 ok\n");
}

#[test]
fn live_lines_keep_every_byte() {
    let mut run = Run::new("a", Options::default());
    run.out("a", b"\xff\x00\r\n\n\x1b[1m").exits("a", 0);
    run.output.end().unwrap();
    assert_eq!(&*run.out.0.lock().unwrap(), b"a: \xff\x00\r\na: \na: \x1b[1m\n");
}

#[test]
fn without_label_one_host_passes_through_untouched() {
    let options = || Options { no_label: true, ..Options::default() };
    let mut run = Run::new("local", options());
    run.out("local", b"no newline \xfe").exits("local", 0);
    assert_eq!(&*run.out.0.lock().unwrap(), b"no newline \xfe");
    let mut two = Run::new("a,b", options());
    two.out("a", "x").out("b", "y\n").exits("a", 0).exits("b", 0);
    assert_eq!(two.end().0, "y\nx\n");
}

#[test]
fn names_are_coloured_on_request_and_the_output_never() {
    let mut run = Run::with_color("a", Options::default(), true);
    run.out("a", "x\n").err("a", "y\n").exits("a", 0);
    let (out, err) = run.end();
    assert_eq!(out, "\x1b[36ma:\x1b[0m x\n");
    assert_eq!(err, "\x1b[31ma:\x1b[0m y\n1 ok\n");
}

#[test]
fn gathered_output_folds_and_the_odd_one_comes_last() {
    let mut run = Run::new("db[1-13]", layout(Layout::Gathered { with_stderr: false }));
    run.out("db10", "openssl-1.1\n").exits("db10", 0).err("db12", "rpm: no such package\n").exits("db12", 1);
    for i in [1, 2, 3, 4, 5, 6, 7, 8, 9, 11] {
        let name = format!("db{i}");
        run.out(&name, "openssl").out(&name, if i == 3 { "-3.0" } else { "-3.0\n" }).exits(&name, 0);
    }
    run.ends("db13", refused());
    assert_eq!(run.written().0, "", "nothing before the end");
    let (out, err) = run.end();
    let expected = "\
---------------
db[1-9,11] (10)
---------------
openssl-3.0
---------------
db10
---------------
openssl-1.1
";
    assert_eq!(out, expected);
    let expected = "\
db12: rpm: no such package
no output (1): db12
unreachable (1): db13: connection refused
exit 1 (1): db12
11 ok, 1 unreachable, 1 failed
";
    assert_eq!(err, expected);
}

#[test]
fn gathered_with_stderr_keeps_the_order_of_both() {
    let mut run = Run::new("a,b", layout(Layout::Gathered { with_stderr: true }));
    for host in ["a", "b"] {
        run.out(host, "1\n").err(host, "2\n").out(host, "3\n").exits(host, 0);
    }
    let (out, err) = run.end();
    assert_eq!(out, "---------------\na,b (2)\n---------------\n1\n2\n3\n");
    assert_eq!(err, "2 ok\n");
}

#[test]
fn gathered_without_labels_is_the_output_alone() {
    let options = Options { no_label: true, ..layout(Layout::Gathered { with_stderr: false }) };
    let mut run = Run::new("a,b,c", options);
    run.out("c", "other\n").exits("c", 0).out("a", "same\n").exits("a", 0).out("b", "same\n").exits("b", 0);
    assert_eq!(run.end().0, "same\nother\n");
}

#[test]
fn an_interrupt_shows_what_was_gathered() {
    let mut run = Run::new("n[1-4]", layout(Layout::Gathered { with_stderr: false }));
    run.out("n1", "done\n").exits("n1", 0).out("n2", "half").ends("n2", Outcome::Interrupted);
    run.ends("n3", Outcome::Interrupted);
    let (out, err) = run.end();
    assert_eq!(
        out,
        "---------------\nn1\n---------------\ndone\n---------------\nn2\n---------------\nhalf\n"
    );
    assert_eq!(err, "interrupted (2): n[2-3]\nnot started (1): n4\n1 ok, 2 interrupted, 1 not started\n");
}

#[test]
fn by_host_waits_for_the_ones_before() {
    let mut run = Run::new("n[1-3]", layout(Layout::ByHost));
    run.out("n3", "three\n").exits("n3", 0).out("n1", "o").out("n1", "ne");
    assert_eq!(run.written().0, "");
    run.exits("n1", 0);
    assert_eq!(run.written().0, "n1: one\n");
    run.err("n2", "late\n").out("n2", "two\n").exits("n2", 0);
    assert_eq!(run.end(), ("n1: one\nn2: two\nn3: three\n".into(), "n2: late\n3 ok\n".into()));
}

#[test]
fn differences_are_shown_against_what_most_said() {
    let mut run = Run::new("n[1-4]", layout(Layout::Diff));
    for host in ["n1", "n2", "n4"] {
        run.out(host, "a\nb\nc\n").exits(host, 0);
    }
    run.out("n3", b"a\nB\xff\nc\n").exits("n3", 0);
    run.output.end().unwrap();
    let expected: &[u8] = b"\
---------------
n[1-2,4] (3)
---------------
a
b
c
--- n[1-2,4] (3)
+++ n3
@@ -1,3 +1,3 @@
 a
-b
+B\xff
 c
";
    assert_eq!(&*run.out.0.lock().unwrap(), expected);
}

#[test]
fn json_is_one_object_a_host_and_nothing_else() {
    let mut run = Run::new("a,b,c,d,e", layout(Layout::Json));
    run.out("a", "x\"\n").err("a", "y").exits("a", 0);
    run.out("b", b"\xff\xfe").exits("b", 255);
    run.ends("c", failed(FailureClass::HostKey, "unknown key", "SHA256:abc", Some("ssh-keyscan c")));
    run.ends("d", Outcome::Signaled { signal: 9 });
    let (out, err) = run.end();
    let expected = r#"{"host":"a","class":"ok","code":0,"signal":null,"ms":1234,"stdout":"x\"\n","stderr":"y"}
{"host":"b","class":"remote exit","code":255,"signal":null,"ms":1234,"stdout":"��","stderr":"","stdout_base64":"//4="}
{"host":"c","class":"host key","code":null,"signal":null,"ms":1234,"stdout":"","stderr":"","step":"connect","message":"unknown key","evidence":"SHA256:abc","hint":"ssh-keyscan c"}
{"host":"d","class":"signal","code":null,"signal":9,"ms":1234,"stdout":"","stderr":""}
{"host":"e","class":"not started","code":null,"signal":null,"ms":0,"stdout":"","stderr":""}
"#;
    assert_eq!(out, expected);
    assert!(err.ends_with("1 ok, 1 untrusted, 1 killed, 1 failed, 1 not started\n"), "{err}");
}

#[test]
fn the_summary_folds_each_class_with_its_reason() {
    let mut run = Run::new("db[1-4],web[1-5]", Options::default());
    run.ends("db3", refused()).ends("db4", refused());
    run.ends("db2", failed(FailureClass::Resolve, "no such host", "", None));
    run.ends("db1", failed(FailureClass::Timeout, "no answer\nwithin \x1b15s", "", None));
    run.exits("web1", 0).exits("web2", 2).exits("web3", 127);
    run.ends("web4", Outcome::TimedOut { limit: Duration::from_secs(90) });
    run.ends("web5", Outcome::Signaled { signal: 15 });
    let expected = "\
unreachable (1): db2: no such host
unreachable (2): db[3-4]: connection refused
unreachable (1): db1: no answer within \\u{1b}15s
timed out after 1m30s (1): web4
killed by SIGTERM (1): web5
exit 127 (1): web3
exit 2 (1): web2
1 ok, 4 unreachable, 1 timed out, 1 killed, 2 failed
";
    assert_eq!(run.end().1, expected);
}

#[test]
fn a_failure_shows_what_is_known_and_how_to_mend_it() {
    let mut run = Run::new("new1", Options::default());
    let hint = "to accept it:\n  ssh-keyscan -t ed25519 new1 >> ~/.ssh/known_hosts";
    run.ends(
        "new1",
        failed(FailureClass::HostKey, "the key is unknown", "ED25519 SHA256:x\x07\n", Some(hint)),
    );
    let expected = "\
host key (1): new1: the key is unknown
  | ED25519 SHA256:x\\u{7}
  to accept it:
    ssh-keyscan -t ed25519 new1 >> ~/.ssh/known_hosts
1 untrusted
";
    assert_eq!(run.end().1, expected);
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let options = || Options { quiet: true, ..Options::default() };
    let mut run = Run::new("a", options());
    run.exits("a", 0);
    assert_eq!(run.end(), (String::new(), String::new()));
    let mut run = Run::new("a", options());
    run.exits("a", 1);
    assert_eq!(run.end().1, "exit 1 (1): a\n1 failed\n");
}

#[test]
fn output_beyond_the_budget_is_dropped_and_said_to_be() {
    let options = |chosen| Options { budget: 4, ..layout(chosen) };
    let said = "a: the last 2 bytes of output were dropped for lack of memory: --outdir keeps everything\n";
    for chosen in [Layout::Gathered { with_stderr: false }, Layout::ByHost] {
        let mut run = Run::new("a", options(chosen));
        run.out("a", "123456").exits("a", 0);
        let (out, err) = run.end();
        assert!(out.ends_with("1234\n"), "{out}");
        assert_eq!(err, format!("{said}1 ok\n"));
    }
    let mut run = Run::new("a", options(Layout::Json));
    run.out("a", "123456").exits("a", 0);
    assert!(run.end().0.contains(r#""stdout":"1234","stderr":"","stdout_lost":2}"#));
}

#[test]
fn identical_output_counts_once_against_the_budget() {
    let options = Options { budget: 8, ..layout(Layout::Gathered { with_stderr: false }) };
    let mut run = Run::new("n[1-9]", options);
    for i in 1..=9 {
        run.out(&format!("n{i}"), "abc\n").exits(&format!("n{i}"), 0);
    }
    let (out, err) = run.end();
    assert_eq!(
        (out.as_str(), err.as_str()),
        ("---------------\nn[1-9] (9)\n---------------\nabc\n", "9 ok\n")
    );
}

#[test]
fn files_hold_what_each_host_said() {
    let root = tempfile::tempdir().unwrap();
    let (outdir, errdir) = (root.path().join("deep/out"), root.path().join("err"));
    let options = |append| Options {
        outdir: Some(outdir.clone()),
        errdir: Some(errdir.clone()),
        append,
        ..Options::default()
    };
    let read = |dir: &Path, name: &str| std::fs::read(dir.join(name)).unwrap();
    let mut run = Run::new("a,ssh://u@b/..", options(false));
    run.out("a", b"1\xff\n2").err("a", "e").exits("a", 0).ends("ssh://u@b/..", refused());
    let (out, _) = {
        let Run { output, out, err, .. } = run;
        output.end().unwrap();
        (out, err)
    };
    assert_eq!(&*out.0.lock().unwrap(), b"a: 1\xff\na: 2\n", "and it is still shown");
    assert_eq!(read(&outdir, "a"), b"1\xff\n2");
    assert_eq!(read(&errdir, "a"), b"e");
    assert_eq!(read(&outdir, "ssh:%2F%2Fu@b%2F.."), b"", "a host that was not reached has no old answer");
    let mut again = Run::new("a", options(true));
    again.out("a", "3").exits("a", 0);
    again.end();
    assert_eq!(read(&outdir, "a"), b"1\xff\n23");
    let mut anew = Run::new("a", options(false));
    anew.out("a", "4").exits("a", 0);
    anew.end();
    assert_eq!(read(&outdir, "a"), b"4");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().join("sub");
    let options = Options { outdir: Some(dir.clone()), ..Options::default() };
    let screen = Screen::new(Box::new(Page::default()), Box::new(Page::default()), false, false);
    let Err(error) = Output::new(Arc::new([]), &options, screen, Progress::hidden()) else { panic!("made") };
    assert!(error.to_string().starts_with(&format!("cannot write {}: ", dir.display())), "{error}");
}

#[test]
fn a_reader_that_has_gone_is_an_error() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let set = evaluate("a", Source::Argument, &Groups::default()).unwrap();
    let screen = Screen::new(Box::new(Gone), Box::new(Page::default()), false, false);
    let hosts = set.iter().cloned().collect();
    let mut output = Output::new(hosts, &Options::default(), screen, Progress::hidden()).unwrap();
    let event = Event::Output { host: HostId(0), stream: Stream::Stdout, bytes: b"x\n".to_vec() };
    assert!(
        matches!(output.handle(event), Err(OutputError::Screen(error)) if error.kind() == io::ErrorKind::BrokenPipe)
    );
}
