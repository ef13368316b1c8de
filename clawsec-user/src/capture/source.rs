//! A file read front to back, with the place where it was read.

use std::io::{self, BufReader, Read};

use super::{CaptureError, MAX_FRAME_BYTES};

/// Read ahead by one system call.
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct Source<R> {
    read: BufReader<R>,
    offset: u64,
    /// The frame last read; its room is used again.
    frame: Vec<u8>,
}

impl<R: Read> Source<R> {
    pub(super) fn new(read: R) -> Self {
        Self {
            read: BufReader::with_capacity(BUFFER_BYTES, read),
            offset: 0,
            frame: Vec::new(),
        }
    }

    /// The next `N` bytes; `None` if the file ends exactly here.
    pub(super) fn first<const N: usize>(&mut self) -> Result<Option<[u8; N]>, CaptureError> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    return Err(CaptureError::Cut {
                        offset: self.offset + filled as u64,
                        what: "a header",
                    });
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        self.offset += N as u64;
        Ok(Some(bytes))
    }

    /// The next `N` bytes, which must be there.
    pub(super) fn take<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], CaptureError> {
        let offset = self.offset;
        match self.first() {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => Err(CaptureError::Cut { offset, what }),
            Err(CaptureError::Cut { offset, .. }) => Err(CaptureError::Cut { offset, what }),
            Err(error) => Err(error),
        }
    }

    /// Reads a frame's bytes into the one place there is for them.
    pub(super) fn take_frame(&mut self, bytes: u32) -> Result<(), CaptureError> {
        if bytes > MAX_FRAME_BYTES {
            return Err(self.malformed("a frame of more than 1 MiB"));
        }
        self.frame.clear();
        let wanted = u64::from(bytes);
        let read = self.read.by_ref().take(wanted).read_to_end(&mut self.frame);
        let count = read.map_err(|source| self.failed(source))? as u64;
        self.offset += count;
        if count < wanted {
            return Err(self.cut("a frame"));
        }
        Ok(())
    }

    /// What `take_frame` read.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// Passes over bytes that nobody asks about.
    pub(super) fn skip(&mut self, bytes: u64, what: &'static str) -> Result<(), CaptureError> {
        let mut rest = self.read.by_ref().take(bytes);
        let skipped = io::copy(&mut rest, &mut io::sink()).map_err(|source| self.failed(source))?;
        self.offset += skipped;
        if skipped < bytes {
            return Err(self.cut(what));
        }
        Ok(())
    }

    pub(super) fn malformed(&self, what: &'static str) -> CaptureError {
        CaptureError::Malformed {
            offset: self.offset,
            what,
        }
    }

    fn cut(&self, what: &'static str) -> CaptureError {
        CaptureError::Cut {
            offset: self.offset,
            what,
        }
    }

    fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::Read {
            offset: self.offset,
            source,
        }
    }
}
