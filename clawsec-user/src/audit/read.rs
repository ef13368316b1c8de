//! Lines of a log and its rotated parts, oldest first, in constant memory.
//!
//! Reads files only: works without the daemon, beside a running one, and on a copy. A torn last
//! line is given as such, never as an error.

use std::path::Path;

use super::blocks::{Block, Blocks, LINE_LIMIT};
use super::parts::{OpenPart, ReadError};

/// Reads line after line.
pub struct LogReader {
    blocks: Blocks,
    block: Block,
    /// Where the next line begins in the block.
    position: usize,
    number: u64,
}

/// One line, without its newline.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub part: &'a Path,
    /// 1 for the first of the part.
    pub number: u64,
    /// Of its first byte in the part's text.
    pub offset: u64,
    /// At most 64 KiB; the rest of a longer line is skipped.
    pub text: &'a [u8],
    /// False for a last line without a newline: being written, or torn by a crash.
    pub complete: bool,
}

impl LogReader {
    /// Opens every part at once, so that a rotation meanwhile neither hides nor repeats a line.
    ///
    /// # Errors
    /// `Missing` when there is neither a log nor a part of one.
    pub fn open(log: &Path) -> Result<Self, ReadError> {
        Ok(Self::of_blocks(Blocks::open(log)?))
    }

    /// Reads one part alone.
    pub(super) fn of_part(part: OpenPart) -> Self {
        Self::of_blocks(Blocks::of_parts(vec![part]))
    }

    fn of_blocks(blocks: Blocks) -> Self {
        Self {
            blocks,
            block: Block::default(),
            position: 0,
            number: 0,
        }
    }

    /// The next line; `None` at the end of the newest part.
    ///
    /// # Errors
    /// When a part cannot be read to its end; the next call goes on with the next part.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, ReadError> {
        if self.position >= self.block.text.len() {
            let last = self.block.part;
            let buffer = std::mem::take(&mut self.block.text);
            self.position = 0;
            match self.blocks.next(buffer)? {
                None => return Ok(None),
                Some(block) => self.block = block,
            }
            if self.block.part != last {
                self.number = 0;
            }
        }
        let start = self.position;
        let rest = &self.block.text[start..];
        let newline = memchr::memchr(b'\n', rest);
        let text = &rest[..newline.unwrap_or(rest.len())];
        self.position += text.len() + 1;
        self.number += 1;
        Ok(Some(Line {
            part: &self.blocks.names()[self.block.part],
            number: self.number,
            offset: self.block.offset + start as u64,
            text: &text[..text.len().min(LINE_LIMIT)],
            complete: newline.is_some(),
        }))
    }
}
