//! The terminal, taken and given back: at the end, at an error, at a panic, and at a signal.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::DefaultTerminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// A terminal in our hands; dropping it gives it back.
pub(crate) struct Taken {
    pub(crate) terminal: DefaultTerminal,
    ended: Arc<AtomicBool>,
}

impl Taken {
    /// ratatui's `try_init` also sets a panic hook that gives the terminal back before the
    /// panic's own words are printed.
    pub(crate) fn take() -> io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            flag::register(signal, Arc::clone(&ended))?;
        }
        Ok(Self {
            terminal: ratatui::try_init()?,
            ended,
        })
    }

    /// Whether a signal asked for the end.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A terminal that is gone needs no giving back.
        let _gone = ratatui::try_restore();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    const ENDS_BY: &str = "CLAWSEC_TOP_TEST_ENDS_BY";
    const ENTER: &str = "\u{1b}[?1049h";
    const LEAVE: &str = "\u{1b}[?1049l";

    /// What the two tests below run in a terminal of their own; by itself it does nothing.
    #[test]
    fn inner() {
        let Ok(end) = std::env::var(ENDS_BY) else {
            return;
        };
        let taken = Taken::take().unwrap();
        assert!(end != "panic", "the words of the panic");
        let pid = std::process::id().to_string();
        print!("pid {pid}.");
        io::stdout().flush().unwrap();
        while !taken.is_ended() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn in_a_terminal(end: &str) -> std::process::Child {
        let this = std::env::current_exe().unwrap();
        let inner = format!(
            "{} --exact terminal::tests::inner --nocapture",
            this.display()
        );
        Command::new("script")
            .args(["-qec", &inner, "/dev/null"])
            .env(ENDS_BY, end)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn a_panic_gives_the_terminal_back_before_its_words() {
        let mut child = in_a_terminal("panic");
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        child.wait().unwrap();
        let entered = text.find(ENTER).unwrap_or_else(|| panic!("{text:?}"));
        let left = text.find(LEAVE).unwrap_or_else(|| panic!("{text:?}"));
        let said = text
            .find("the words of the panic")
            .unwrap_or_else(|| panic!("{text:?}"));
        assert!(entered < left && left < said, "{text:?}");
    }

    #[test]
    fn a_signal_gives_the_terminal_back() {
        for signal in ["-TERM", "-HUP", "-INT"] {
            let mut child = in_a_terminal("signal");
            let mut stdout = child.stdout.take().unwrap();
            let mut bytes = Vec::new();
            let pid = loop {
                let mut byte = [0];
                stdout.read_exact(&mut byte).unwrap();
                bytes.push(byte[0]);
                let text = String::from_utf8_lossy(&bytes);
                if let Some((_, rest)) = text.split_once("pid ")
                    && let Some(pid) = rest.strip_suffix('.')
                {
                    break pid.to_owned();
                }
            };
            Command::new("kill").args([signal, &pid]).status().unwrap();
            let mut rest = String::new();
            stdout.read_to_string(&mut rest).unwrap();
            child.wait().unwrap();
            assert!(rest.contains(LEAVE), "{signal}: {rest:?}");
        }
    }
}
