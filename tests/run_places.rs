//! `farcall run` where hosts are reached by other commands than our own SSH.

mod program;

use std::os::unix::fs::PermissionsExt;

use program::Program;

#[test]
fn the_systems_ssh_is_a_way_too() {
    let program = Program::with_hosts(2);
    let printed = program.run_with(&["run", "-w", "openssh://n1,n2", "tr a-z A-Z"], b"both\n");
    assert_eq!(printed.sorted(), ["n2: BOTH", "openssh://n1: BOTH"], "{printed:?}");
    assert_eq!((printed.code, printed.last_line()), (0, "2 ok"));
    program.wait_until_idle();
}

#[test]
fn a_command_that_takes_a_program_is_a_way_as_of_containers() {
    let program = Program::alone();
    // Takes the arguments that the container tool takes, and runs the program here.
    let tool = program.home.path().join("docker");
    let text = "#!/bin/sh\n[ \"$1 $2 $3\" = 'exec -i box' ] || { echo \"no such container: $3\" >&2; exit 1; }\n\
                shift 3\nexec \"$@\"\n";
    std::fs::write(&tool, text).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", program.home.path().display(), std::env::var("PATH").unwrap());
    let run = |line: &[&str]| program.command(line).env("PATH", &path).output().unwrap();
    let inside = run(&["run", "-w", "docker://box", "echo inside; exit 9"]);
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "docker://box: inside\n");
    assert_eq!(inside.status.code(), Some(9));
    let outside = run(&["run", "-w", "docker://other", "true"]);
    let said = String::from_utf8_lossy(&outside.stderr);
    assert_eq!(outside.status.code(), Some(4), "{said}");
    assert!(said.contains("no such container: other"), "{said}");
}
