//! The built programs need nothing of the machine that they run on: no loader, no libraries. What the lean twin is built
//! without, where it is built for size, does not keep a program from running.

#[path = "../cli/link/arguments.rs"]
mod arguments;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Object, ObjectSection};

fn assert_static(path: &str) {
    let bytes = std::fs::read(path).expect("it was built");
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).expect("a program");
    let endian = file.endian();
    let headers = file.elf_header().program_headers(endian, &*bytes).expect("program headers");
    assert!(!headers.is_empty());
    for header in headers {
        assert_ne!(header.p_type(endian), object::elf::PT_INTERP, "{path} wants a loader");
    }
    assert_eq!(file.imports().expect("a readable table").count(), 0, "{path} wants libraries");
}

#[test]
fn neither_program_has_an_interpreter_segment() {
    assert_static(env!("CARGO_BIN_EXE_farcall"));
    assert_static(env!("CARGO_BIN_EXE_farcall-worker"));
}

/// Starts a thread and a program, and then a thread that panics.
const PROGRAM: &str = r#"
fn main() {
    assert_eq!(std::thread::spawn(|| std::env::args().count()).join().unwrap(), 2);
    assert!(std::process::Command::new("true").status().unwrap().success());
    println!("{}", i32::from_str_radix("-7f", 16).unwrap());
    let _ = std::thread::spawn(|| panic!("the end")).join();
    println!("it went on");
}
"#;

#[test]
fn a_program_without_unwind_tables_runs_and_ends_with_its_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("main.rs"), folder.path().join("main"));
    std::fs::write(&source, PROGRAM).unwrap();
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition", "2024", "-C", "panic=abort", "-C", "target-feature=+crt-static"]);
    for argument in arguments::without_unwinding(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        compiler.arg(format!("-Clink-arg={argument}"));
    }
    compiler.arg("-o").arg(&program).arg(&source);
    let compiled = compiler.output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let bytes = std::fs::read(&program).unwrap();
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
    let tables = file.sections().filter(|section| {
        let name = section.name().unwrap_or_default();
        name.contains("eh_frame") || name.contains("except_table")
    });
    // Some linkers leave the mark at the end of an empty table. Those of the standard library alone are many kilobytes.
    assert!(tables.map(|section| section.size()).sum::<u64>() < 256, "the linker left them in place");

    let ended = Command::new(&program).arg("one").env("RUST_BACKTRACE", "1").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "-127\n");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("the end"), "{said}");
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{said}");
}
