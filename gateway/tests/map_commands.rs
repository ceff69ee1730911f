//! A map of a command runs it for each input, and ends what it started.

mod gateways;

use std::sync::Arc;
use std::time::Duration;

use farcall::{ExitStatus, ItemError, Tasks, map_command};
use gateways::{Kind, Place, alive, at, local, plain, until, until_idle, value};

fn main() {
    gateways::main(
        Tasks::new(),
        [
            at(&[Kind::Local, Kind::Ssh], "a_command_for_each_input", a_command_for_each_input),
            plain("commands_end_as_they_do", commands_end_as_they_do),
            plain("commands_are_killed_with_the_map", commands_are_killed_with_the_map),
        ],
    );
}

async fn a_command_for_each_input(place: Arc<Place>) {
    let gateways = [place.open().await, place.open().await];
    let inputs = (0..200).map(|n| [format!("{n}"), "last".to_owned()]);
    let outputs =
        map_command("printf", inputs).args(["%s-%s"]).on(&gateways).slots(2).start().unwrap().all().await;
    for (n, output) in outputs.into_iter().enumerate() {
        let output = value(output);
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{n}-last"));
        assert!(output.stderr.is_empty());
    }
    for gateway in &gateways {
        until_idle(gateway).await;
    }
}

async fn commands_end_as_they_do() {
    let gateways = local(1).await;
    let shell = |lines: &[&'static str]| {
        let lines: Vec<[&str; 2]> = lines.iter().map(|line| ["-c", line]).collect();
        map_command("sh", lines).on(&gateways).slots(2)
    };
    let ends =
        shell(&["exit 7", "kill -9 $$", "echo $A >&2; pwd"]).env("A", "b").current_dir("/").start().unwrap();
    let ends: Vec<_> = ends.all().await.into_iter().map(value).collect();
    assert_eq!(ends[0].status, ExitStatus::Code(7));
    assert_eq!(ends[1].status, ExitStatus::Signal(9));
    assert_eq!((&ends[2].stdout[..], &ends[2].stderr[..]), (&b"/\n"[..], &b"b\n"[..]));
    // What exceeds the limit is read all the same.
    let cut = shell(&["head -c 300000 /dev/zero"]).keep(1000).start().unwrap().all().await;
    let cut = value(cut.into_iter().next().unwrap());
    assert_eq!((cut.stdout.len(), cut.status), (1000, ExitStatus::Code(0)));
    // What it leaves behind may hold its output open, but not the map.
    let held = shell(&["sleep 600 & echo done"]).start().unwrap().all().await;
    let held = value(held.into_iter().next().unwrap());
    assert_eq!((&held.stdout[..], held.held_open), (&b"done\n"[..], true));
    let limit = Duration::from_secs(2);
    let late = shell(&["sleep 600", "exit 0"]).item_timeout(limit).start().unwrap().all().await;
    assert!(matches!(late[0], Err(ItemError::TimedOut { running: false })));
    assert!(late[1].is_ok());
    // One that was stopped is over, though what it left behind holds its output open.
    let limit = Duration::from_secs(1);
    let late = shell(&["setsid sleep 5 & sleep 600"]).item_timeout(limit).start().unwrap().all().await;
    assert!(matches!(late[0], Err(ItemError::TimedOut { running: false })), "{:?}", late[0]);
    let missing = map_command("/no/such/program", [[""; 0]]).on(&gateways).start().unwrap().all().await;
    match &missing[0] {
        Err(ItemError::Failed(failure)) => assert!(failure.chain().any(|text| text.contains("No such file"))),
        other => panic!("{other:?}"),
    }
    until_idle(&gateways[0]).await;
}

async fn commands_are_killed_with_the_map() {
    let gateways = local(1).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let line = format!("echo $$ >> {}; sleep 600 & wait", file.display());
    let map = map_command("sh", vec![["-c".to_owned(), line]; 5]).on(&gateways).slots(2).start().unwrap();
    let pids = || -> Vec<u32> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    until("two run", || pids().len() == 2).await;
    drop(map);
    until("they are killed", || pids().into_iter().all(|pid| !alive(pid))).await;
    until_idle(&gateways[0]).await;
    assert_eq!(pids().len(), 2, "the others were never started");
}
