//! The built programs need nothing of the machine that they run on: no loader, no libraries.

use object::Object;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

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
