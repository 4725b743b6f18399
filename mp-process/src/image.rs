//! The main executable as it lies in memory: where it is, and which build it is.
//!
//! Its program headers come from the kernel (`AT_PHDR`), so they are those of the executable, never
//! of a shared library that this code may have been linked into.
#![allow(unsafe_code)] // reads the program headers and notes of the running image

use std::sync::OnceLock;

use nix::libc;

/// The main executable in this process.
pub(crate) struct Image {
    /// Where address 0 of the file was loaded; differs from process to process.
    base: usize,
    /// What is mapped of the file, as offsets from `base`.
    segments: Vec<std::ops::Range<usize>>,
    /// The same in every process that runs this build, and in no other.
    build: u64,
}

/// Offset basis and prime of FNV-1a.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);

/// FNV-1a over `bytes`, going on from `hash`.
pub(crate) const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(FNV.1);
        index += 1;
    }
    hash
}

/// FNV-1a over `bytes`.
pub(crate) const fn hash(bytes: &[u8]) -> u64 {
    fnv(FNV.0, bytes)
}

impl Image {
    /// The main executable of this process.
    pub(crate) fn main() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(Self::read)
    }

    /// Which build this is: its build id, and the layout that the linker gave it.
    pub(crate) fn build(&self) -> u64 {
        self.build
    }

    /// How far `address` lies from the start of the image; `None` outside of it.
    pub(crate) fn offset_of(&self, address: usize, len: usize) -> Option<u64> {
        let offset = address.checked_sub(self.base)?;
        self.contains(offset, len).then_some(offset as u64)
    }

    /// The address of `len` bytes at `offset`; `None` if they are not all in the image.
    pub(crate) fn address_of(&self, offset: u64, len: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        self.contains(offset, len).then(|| self.base + offset)
    }

    fn contains(&self, offset: usize, len: usize) -> bool {
        let Some(end) = offset.checked_add(len) else {
            return false;
        };
        self.segments
            .iter()
            .any(|segment| segment.start <= offset && end <= segment.end)
    }

    fn read() -> Self {
        let headers = program_headers();
        let start = headers.as_ptr() as usize;
        let base = headers
            .iter()
            .find(|header| header.p_type == libc::PT_PHDR)
            .map(|header| start - header.p_vaddr as usize)
            // Without that entry the headers follow the file header on the first page.
            .unwrap_or(start & !0xfff);
        let mut build = FNV.0;
        let mut segments = Vec::new();
        for header in headers {
            for field in [header.p_type as u64, header.p_vaddr, header.p_filesz] {
                build = fnv(build, &field.to_ne_bytes());
            }
            let range = header.p_vaddr as usize..(header.p_vaddr + header.p_filesz) as usize;
            match header.p_type {
                libc::PT_LOAD => segments.push(range),
                libc::PT_NOTE => {
                    // SAFETY: notes are loaded, readable and never written.
                    let notes = unsafe {
                        std::slice::from_raw_parts((base + range.start) as *const u8, range.len())
                    };
                    build = fnv(build, notes); // the linker's build id is among them
                }
                _ => {}
            }
        }
        Self {
            base,
            segments,
            build,
        }
    }
}

fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: getauxval only looks up.
    let start = unsafe { libc::getauxval(libc::AT_PHDR) } as *const libc::Elf64_Phdr;
    // SAFETY: as above.
    let count = unsafe { libc::getauxval(libc::AT_PHNUM) } as usize;
    if start.is_null() {
        return &[];
    }
    // SAFETY: the kernel mapped the headers of the executable there, for the life of the process.
    unsafe { std::slice::from_raw_parts(start, count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    static INSIDE: u64 = 7;

    #[test]
    fn statics_are_inside_and_all_else_is_outside() {
        let image = Image::main();
        let offset = image.offset_of(&raw const INSIDE as usize, 8).unwrap();
        assert_eq!(
            image.address_of(offset, 8),
            Some(&raw const INSIDE as usize)
        );
        let outside = Box::new(7_u64);
        assert_eq!(image.offset_of(&raw const *outside as usize, 8), None);
        let library = libc::getpid as *const () as usize;
        assert_eq!(
            image.offset_of(library, 1),
            None,
            "a shared library is not the image"
        );
        assert_eq!(image.address_of(u64::MAX - 3, 8), None);
        assert_ne!(image.build(), FNV.0);
    }
}
