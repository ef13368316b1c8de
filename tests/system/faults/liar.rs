//! A gateway that breaks HTTP in every way: by the path of the request.

use std::io::{self, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use xtask::lab::{Host, Lab};

use crate::system::daemon::in_namespace;

/// Serves on the gateway host's loopback until the test process ends.
pub(super) fn serve(lab: &Lab) {
    let listener = in_namespace(lab, Host::Gateway, || {
        TcpListener::bind("127.0.0.1:18789").expect("bind the gateway")
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whatever clawsec does with the connection is its answer.
            std::thread::spawn(move || converse(stream).ok());
        }
    });
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(path) = request(&mut reader)? {
        let honest = |text: &str| {
            let length = text.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")
        };
        match path.as_str() {
            // Never answers.
            "/stall" => std::thread::sleep(Duration::from_mins(2)),
            "/closes" => return Ok(()),
            "/half-a-head" => return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le"),
            "/garbage" => return stream.write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]),
            "/no-status" => stream.write_all(b"HTTP/1.1 OK\r\n\r\n")?,
            // Says more than it sends.
            "/short" => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf");
            }
            // Sends more than it says: the rest looks like the next answer.
            "/long" => {
                let poison = honest("poison");
                stream.write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone{poison}").as_bytes(),
                )?;
            }
            "/two-answers" => {
                let both = honest("first") + &honest("poison");
                stream.write_all(both.as_bytes())?;
            }
            "/length-and-chunks" => stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nhello\r\n0\r\n\r\n",
            )?,
            "/two-lengths" => stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            )?,
            "/bad-chunks" => stream.write_all(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nXYZ\r\n",
            )?,
            "/endless-informational" => loop {
                stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            },
            "/endless-head" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    stream.write_all(b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")?;
                }
            }
            "/endless-body" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
                loop {
                    stream.write_all(&chunk)?;
                }
            }
            "/switches" => stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
            )?,
            // An honest answer that says which question it is of.
            path => stream.write_all(honest(path).as_bytes())?,
        }
        stream.flush()?;
    }
    Ok(())
}

/// The path of the next request, its body read over.
fn request(reader: &mut impl io::BufRead) -> io::Result<Option<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|line| {
        let lower = line.to_lowercase();
        lower.strip_prefix("content-length:")?.trim().parse().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let path = lines.first().and_then(|line| line.split(' ').nth(1));
    Ok(Some(path.unwrap_or_default().to_owned()))
}
