//! Keys and answers in, frames out, until somebody quits.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use clap::Parser;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::app::{App, Effect, Key};
use crate::ask::{self, Ban, Heard};
use crate::terminal::Taken;
use crate::view;

/// A live view of a running clawsec.
///
/// Example: clawsec top
#[derive(Debug, Parser)]
#[command(name = "clawsec-top", version)]
pub struct Arguments {
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = "/run/clawsec/admin.sock")]
    socket: PathBuf,
    /// Print one screen as text, 80 by 24, after two looks a second apart
    #[arg(long)]
    once: bool,
}

/// Runs it; exit codes as `clawsec`'s own.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.once {
        once(&arguments)
    } else {
        live(&arguments)
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(OTHER)
        }
    }
}

/// The daemon is not there.
const ABSENT: u8 = 3;
const OTHER: u8 = 4;

fn live(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Before the screen is taken: an error of the first answer is an error of the command.
    let mut app = App::default();
    match ask::status(&arguments.socket) {
        Heard::Status(status) => app.take(*status),
        Heard::Banned(why) | Heard::Trouble(why) => {
            say(&why);
            return Ok(ExitCode::from(ABSENT));
        }
    }
    let (bans, heard) = ask::start(arguments.socket.clone());
    let mut taken = Taken::take()?;
    turn(&mut taken, &mut app, &bans, &heard)?;
    Ok(ExitCode::SUCCESS)
}

fn turn(
    taken: &mut Taken,
    app: &mut App,
    bans: &Sender<Ban>,
    heard: &Receiver<Heard>,
) -> anyhow::Result<()> {
    loop {
        taken.terminal.draw(|frame| view::draw(frame, app))?;
        if taken.is_ended() {
            return Ok(());
        }
        // A signal interrupts the wait.
        match event::poll(TICK) {
            Ok(false) => {}
            Ok(true) => {
                let key = match event::read()? {
                    Event::Key(key) => key_of(key),
                    _ => None,
                };
                match key.and_then(|key| app.press(key)) {
                    Some(Effect::Quit) => return Ok(()),
                    Some(Effect::Ban { source, seconds }) => {
                        // The thread that asks lives as long as this loop.
                        let _asked = bans.send(Ban { source, seconds });
                    }
                    None => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        for heard in heard.try_iter() {
            match heard {
                Heard::Status(status) => app.take(*status),
                Heard::Banned(text) | Heard::Trouble(text) => app.message = Some(text),
            }
        }
    }
}

fn key_of(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Interrupt),
        KeyCode::Char(character) if key.modifiers.is_empty() => Some(Key::Char(character)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Esc => Some(Key::Escape),
        _ => None,
    }
}

/// One screen as text, for a pipe or for a document.
fn once(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut app = App::default();
    for look in 0..2 {
        match ask::status(&arguments.socket) {
            Heard::Status(status) => app.take(*status),
            Heard::Banned(why) | Heard::Trouble(why) => {
                say(&why);
                return Ok(ExitCode::from(ABSENT));
            }
        }
        if look == 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    let mut terminal = Terminal::new(TestBackend::new(80, 24))?;
    terminal.draw(|frame| view::draw(frame, &app))?;
    let text = view::text(terminal.backend().buffer());
    // A closed pipe (`| head`) ends the output, not the program.
    let _closed = io::stdout().lock().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn say(text: &str) {
    // Nowhere else to say it.
    let _closed = writeln!(io::stderr().lock(), "clawsec: {text}");
}

/// Keys are answered at once, a signal and the daemon's answers within this.
const TICK: Duration = Duration::from_millis(100);
