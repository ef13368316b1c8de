//! Asks the daemon, off the thread that draws: a daemon that hangs must not freeze the keys.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clawsec_user::ops::Status;
use clawsec_user::supervisor::admin::{Answer, Kind, Question, ask};
use ipnet::IpNet;

/// What the daemon said, or why it said nothing.
pub(crate) enum Heard {
    Status(Box<Status>),
    Banned(String),
    Trouble(String),
}

/// A wish for a ban.
pub(crate) struct Ban {
    pub(crate) source: IpAddr,
    pub(crate) seconds: u64,
}

/// Starts to ask every second; bans go in between.
pub(crate) fn start(socket: PathBuf) -> (Sender<Ban>, Receiver<Heard>) {
    let (bans, wishes) = channel();
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        loop {
            let began = Instant::now();
            if tell.send(status(&socket)).is_err() {
                return;
            }
            let left = EVERY.saturating_sub(began.elapsed());
            match wishes.recv_timeout(left) {
                Ok(wish) => {
                    if tell.send(ban(&socket, &wish)).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    (bans, heard)
}

pub(crate) fn status(socket: &Path) -> Heard {
    match ask(socket, &Question::Status) {
        Ok(Answer::Status(status)) => Heard::Status(status),
        Ok(_) => Heard::Trouble("the daemon answered another question".to_owned()),
        Err(error) => Heard::Trouble(error.to_string()),
    }
}

fn ban(socket: &Path, wish: &Ban) -> Heard {
    let question = Question::TimedAdd {
        kind: Kind::Ban,
        prefix: IpNet::from(wish.source),
        seconds: wish.seconds,
        note: Some("clawsec top".to_owned()),
        // A ban that would cut off an operator is made by `clawsec ban add --yes`, not here.
        yes: false,
    };
    match ask(socket, &question) {
        Ok(Answer::Added(entry)) => {
            Heard::Banned(format!("{} is banned until {}", entry.prefix, entry.until))
        }
        Ok(Answer::Refused { message }) => Heard::Banned(format!("not banned: {message}")),
        Ok(_) => Heard::Trouble("the daemon answered another question".to_owned()),
        Err(error) => Heard::Trouble(format!("not banned: {error}")),
    }
}

const EVERY: Duration = Duration::from_secs(1);
