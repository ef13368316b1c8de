//! The load of `cargo xtask bench gateway`, in a release build of its own: clients that wrk cannot
//! be (of WebSockets, and of pages with a whole TLS handshake each), and the one upstream behind every server that is measured.
//!
//! Bounded in count and time; speaks to loopback only.

mod client;
mod upstream;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

#[derive(Debug, Parser)]
enum Load {
    /// Answers pages with a word, and WebSocket frames with themselves after the gateway's handshake.
    Upstream { port: u16 },
    /// Sends a frame and waits for its echo, over and over; prints figures as JSON.
    Frames {
        port: u16,
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        key: String,
        /// Of one frame, in bytes.
        #[arg(long)]
        bytes: usize,
        #[arg(long, default_value_t = 32)]
        connections: u16,
        #[arg(long)]
        seconds: u64,
    },
    /// Asks for pages, each on a new connection; prints figures as JSON.
    Pages {
        port: u16,
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        key: String,
        #[arg(long, default_value_t = 32)]
        connections: u16,
        #[arg(long)]
        seconds: u64,
    },
    /// Opens WebSockets, prints how many are open, and keeps them until its input ends.
    Idle {
        port: u16,
        #[arg(long)]
        ca: PathBuf,
        #[arg(long)]
        key: String,
        #[arg(long)]
        count: u16,
    },
}

fn main() -> anyhow::Result<()> {
    raise_descriptors()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(async {
        match Load::parse() {
            Load::Upstream { port } => upstream::serve(port).await,
            Load::Frames {
                port,
                ca,
                key,
                bytes,
                connections,
                seconds,
            } => {
                let door = client::Door::new(port, &ca, key)?;
                let figures = client::frames(door, bytes, connections, seconds).await?;
                say(&figures)
            }
            Load::Pages {
                port,
                ca,
                key,
                connections,
                seconds,
            } => {
                let door = client::Door::new(port, &ca, key)?;
                say(&client::pages(door, connections, seconds).await?)
            }
            Load::Idle {
                port,
                ca,
                key,
                count,
            } => {
                let door = client::Door::new(port, &ca, key)?;
                let open = client::open_many(&door, count).await?;
                say(&open.len().to_string())?;
                tokio::task::spawn_blocking(|| std::io::stdin().lines().count())
                    .await
                    .context("wait for the end of the input")?;
                drop(open);
                Ok(())
            }
        }
    })
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("print")
}

/// Ten thousand WebSockets are as many descriptors here.
fn raise_descriptors() -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raise the limit of descriptors")
}
