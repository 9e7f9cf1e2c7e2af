//! A tar archive of ordinary files, folders and symbolic links: what a layer of an image is.
//!
//! The format is POSIX.1-1988's (ustar). Owners are root and times the epoch, so that equal files
//! make equal archives.

use anyhow::{Result, ensure};

/// Headers and contents are padded to it.
const BLOCK_BYTES: usize = 512;

/// Where each field of a header begins, and how many bytes it has.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const OWNER: (usize, usize) = (108, 8);
const GROUP: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const TIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const KIND: usize = 156;
const LINK: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);

/// An archive that grows.
#[derive(Debug, Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    pub(super) fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.entry(name, mode, b'0', "", contents)
    }

    pub(super) fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(name, mode, b'5', "", &[])
    }

    pub(super) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, 0o777, b'2', target, &[])
    }

    /// The whole archive: two empty blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK_BYTES]);
        self.0
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        kind: u8,
        target: &str,
        contents: &[u8],
    ) -> Result<()> {
        let mut header = [0; BLOCK_BYTES];
        put(&mut header, NAME, name.as_bytes())?;
        put(&mut header, MODE, &octal(u64::from(mode), MODE))?;
        put(&mut header, OWNER, &octal(0, OWNER))?;
        put(&mut header, GROUP, &octal(0, GROUP))?;
        put(&mut header, SIZE, &octal(contents.len().try_into()?, SIZE))?;
        put(&mut header, TIME, &octal(0, TIME))?;
        // Counted as spaces.
        put(&mut header, CHECKSUM, &[b' '; CHECKSUM.1])?;
        header[KIND] = kind;
        put(&mut header, LINK, target.as_bytes())?;
        put(&mut header, MAGIC, b"ustar\x0000")?;
        let sum: u64 = header.iter().copied().map(u64::from).sum();
        put(&mut header, CHECKSUM, &octal(sum, CHECKSUM))?;
        self.0.extend(header);
        self.0.extend(contents);
        self.0.resize(self.0.len().next_multiple_of(BLOCK_BYTES), 0);
        Ok(())
    }
}

fn put(header: &mut [u8], (start, bytes): (usize, usize), value: &[u8]) -> Result<()> {
    ensure!(
        value.len() <= bytes,
        "{} is longer than a tar header's {bytes} bytes",
        String::from_utf8_lossy(value)
    );
    header[start..start + value.len()].copy_from_slice(value);
    Ok(())
}

/// A number in a field of so many bytes, of which the last is zero.
fn octal(number: u64, (_, bytes): (usize, usize)) -> Vec<u8> {
    format!("{number:0width$o}\0", width = bytes - 1).into_bytes()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_lists_what_an_archive_has() {
        let mut archive = Archive::default();
        archive.folder("bin", 0o755).expect("short");
        archive.file("bin/hello", 0o755, b"hello").expect("short");
        archive.link("bin/hi", "hello").expect("short");
        let mut tar = Command::new("tar")
            .args([
                "--list",
                "--verbose",
                "--numeric-owner",
                "--utc",
                "--file=-",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar is there");
        let mut stdin = tar.stdin.take().expect("asked for");
        std::io::Write::write_all(&mut stdin, &archive.finish()).expect("tar reads");
        drop(stdin);
        let output = tar.wait_with_output().expect("tar ends");
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<Vec<&str>> = listed
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words[0][..3], ["drwxr-xr-x", "0/0", "0"]);
        assert_eq!(words[1][..3], ["-rwxr-xr-x", "0/0", "5"]);
        assert_eq!(words[1].last(), Some(&"bin/hello"));
        assert_eq!(words[2][5..], ["bin/hi", "->", "hello"]);
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        let name = "a".repeat(101);
        assert!(Archive::default().file(&name, 0o644, b"").is_err());
    }
}
