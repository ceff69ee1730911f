//! What a list of processes shows as this one's name and arguments.

use std::io;

/// Where the kernel finds the parts of this process: `struct prctl_mm_map` of `linux/prctl.h`.
///
/// There are two ways to change what is shown. One overwrites the memory in which the arguments were passed; it is as long as
/// they were. This is the other: the kernel is told where they are now. It needs no privilege, but has to be told all
/// addresses at once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Title {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

impl Title {
    /// Reads the addresses, which are those of every process that is forked from this one.
    ///
    /// # Errors
    /// `/proc` is missing, or does not tell them.
    pub(super) fn of_this_process() -> io::Result<Title> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The name is in parentheses and may contain anything. The state behind it is the third field.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // Numbered as in proc(5).
        let field = |number: usize| fields.get(number - 3).copied().filter(|value| *value != 0);
        let title = || {
            Some(Title {
                start_code: field(26)?,
                end_code: field(27)?,
                start_data: field(45)?,
                end_data: field(46)?,
                start_brk: field(47)?,
                brk: 0,
                start_stack: field(28)?,
                arg_start: field(48)?,
                arg_end: field(49)?,
                env_start: field(50)?,
                env_end: field(51)?,
                // None: what is there stays.
                auxv: 0,
                auxv_size: 0,
                exe_fd: u32::MAX,
            })
        };
        title().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Shows `words`, each ended by a zero byte. They stay in memory for the life of the process. To be called while there
    /// is a single thread: where the heap ends must not change meanwhile.
    ///
    /// # Errors
    /// The kernel was built without it (`CONFIG_CHECKPOINT_RESTORE`), or forbids it.
    pub(super) fn show(mut self, words: Vec<u8>) -> io::Result<()> {
        let words: &'static [u8] = words.leak();
        self.arg_start = words.as_ptr() as u64;
        self.arg_end = self.arg_start + words.len() as u64;
        // SAFETY: asks where the heap of the C library ends, and changes nothing.
        self.brk = unsafe { libc::sbrk(0) } as u64;
        // SAFETY: reads a structure of the kernel's layout. Of the addresses in it, the process's own but for the arguments',
        // the kernel makes no use but to show what is there.
        let done = unsafe {
            libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP, &raw const self, size_of::<Title>(), 0)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
