//! Leaves the debug sections out of a program before it is shipped.
//!
//! They are most of an unstripped program and nothing that runs needs them. The symbol table stays, so that a panic on
//! the far side still has a backtrace with names. Only what is simple is done: the loaded part of the file keeps every
//! byte and every offset, what follows is packed together, and the header of a section that is left out becomes a null
//! header in its place, so that no index changes. A file with anything unusual is shipped as it is.

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind, ReadRef};

/// The program without its debug sections, or `None` when there are none or the file is not as expected.
pub(crate) fn without_debug(file: &[u8]) -> Option<Vec<u8>> {
    match FileKind::parse(file).ok()? {
        FileKind::Elf64 => strip::<elf::FileHeader64<Endianness>>(file, Layout::ELF64),
        FileKind::Elf32 => strip::<elf::FileHeader32<Endianness>>(file, Layout::ELF32),
        _ => None,
    }
}

/// Where the offsets stand that change, from the ELF specification's tables.
struct Layout {
    section_header: usize,
    word: usize,
    table_offset: usize,
    section_offset: usize,
}

impl Layout {
    const ELF64: Layout = Layout { section_header: 64, word: 8, table_offset: 40, section_offset: 24 };
    const ELF32: Layout = Layout { section_header: 40, word: 4, table_offset: 32, section_offset: 16 };

    fn write(&self, out: &mut [u8], at: usize, value: usize, endian: Endianness) -> Option<()> {
        let value = u64::try_from(value).ok()?;
        let place = out.get_mut(at..at.checked_add(self.word)?)?;
        match (self.word, endian) {
            (8, Endianness::Little) => place.copy_from_slice(&value.to_le_bytes()),
            (8, Endianness::Big) => place.copy_from_slice(&value.to_be_bytes()),
            (_, Endianness::Little) => place.copy_from_slice(&u32::try_from(value).ok()?.to_le_bytes()),
            (_, Endianness::Big) => place.copy_from_slice(&u32::try_from(value).ok()?.to_be_bytes()),
        }
        Some(())
    }
}

fn is_debug(name: &[u8]) -> bool {
    [&b".debug_"[..], b".zdebug_", b".gdb_index", b".comment"].iter().any(|prefix| name.starts_with(prefix))
}

fn strip<H: FileHeader<Endian = Endianness>>(file: &[u8], layout: Layout) -> Option<Vec<u8>> {
    let header = H::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let usize_of = |value: H::Word| -> Option<usize> { usize::try_from(value.into()).ok() };

    let mut loaded = usize::from(header.e_ehsize(endian));
    let segments = header.program_headers(endian, file).ok()?;
    let table = usize::from(header.e_phentsize(endian)).checked_mul(segments.len())?;
    loaded = loaded.max(usize_of(header.e_phoff(endian))?.checked_add(table)?);
    for segment in segments {
        let end = usize_of(segment.p_offset(endian))?.checked_add(usize_of(segment.p_filesz(endian))?)?;
        loaded = loaded.max(end);
    }
    let mut out = file.get(..loaded)?.to_vec();

    let sections = header.sections(endian, file).ok()?;
    let table = usize_of(header.e_shoff(endian))?;
    let mut headers = file
        .read_bytes_at(table as u64, layout.section_header.checked_mul(sections.len())? as u64)
        .ok()?
        .to_vec();
    // A count too large for the file header stands in the first section header: too unusual to touch.
    if sections.is_empty() || usize::from(header.e_shnum(endian)) != sections.len() {
        return None;
    }
    let mut dropped = false;
    for (index, section) in sections.iter().enumerate() {
        let name = sections.section_name(endian, section).ok()?;
        let offset = usize_of(section.sh_offset(endian))?;
        let size = usize_of(section.sh_size(endian))?;
        let flags = section.sh_flags(endian);
        let end = offset.checked_add(size)?;
        if matches!(section.sh_type(endian), elf::SHT_NULL | elf::SHT_NOBITS) || end <= loaded {
            continue;
        }
        if flags.contains(elf::SHF_ALLOC) || offset < loaded {
            return None;
        }
        let at = index * layout.section_header;
        if is_debug(name) {
            headers.get_mut(at..at + layout.section_header)?.fill(0);
            dropped = true;
            continue;
        }
        let align = usize_of(section.sh_addralign(endian))?.clamp(1, 64);
        out.resize(out.len().next_multiple_of(align), 0);
        layout.write(&mut headers, at + layout.section_offset, out.len(), endian)?;
        out.extend_from_slice(file.get(offset..end)?);
    }
    out.resize(out.len().next_multiple_of(layout.word), 0);
    let table = out.len();
    layout.write(&mut out, layout.table_offset, table, endian)?;
    out.extend_from_slice(&headers);
    dropped.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSection};
    use std::os::unix::fs::PermissionsExt;

    fn this_program() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("a path")).expect("this program is readable")
    }

    #[test]
    fn a_program_without_debug_sections_is_smaller_keeps_its_names_and_runs() {
        let whole = this_program();
        let small = without_debug(&whole).expect("test programs have debug sections");
        assert!(small.len() < whole.len() / 2, "{} of {}", small.len(), whole.len());

        let read = object::read::elf::ElfFile64::<Endianness>::parse(&*small).expect("still an ELF file");
        assert!(read.section_by_name(".debug_info").is_none());
        assert!(read.section_by_name(".symtab").expect("names").size() > 0);
        assert!(read.symbols().count() > 1000);

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("small");
        std::fs::write(&path, &small).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("executable");
        let output = std::process::Command::new(&path)
            .args(["--exact", "strip::tests::what_is_not_as_expected_is_left_alone"])
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn what_is_not_as_expected_is_left_alone() {
        assert!(without_debug(b"").is_none());
        assert!(without_debug(b"#!/bin/sh\n").is_none());
        let whole = this_program();
        for cut in [4, 16, 63, 64, 100, whole.len() / 2, whole.len() - 1] {
            assert!(without_debug(&whole[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn damaged_headers_never_panic() {
        let mut file = this_program();
        file.truncate(1 << 16);
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut damaged = file.clone();
            for _ in 0..8 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let at = (state >> 33) as usize % 1024;
                damaged[at] = (state >> 20) as u8;
            }
            let _ = without_debug(&damaged);
        }
    }
}
