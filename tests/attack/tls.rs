//! Connections that end before a request.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{PATIENCE, Tally, Target, server_name};

pub(super) async fn churn(target: &Target, source: IpAddr, tally: &mut Tally) {
    match target.connect(source).await {
        Some(_left) => tally.add("kept"),
        None => tally.add("refused"),
    }
}

pub(super) async fn hello(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
) {
    let mut session =
        ClientConnection::new(Arc::clone(config), server_name()).expect("make a session");
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("write a hello");
    let Some(mut stream) = target.connect(source).await else {
        return tally.add("refused");
    };
    let mut answer = [0; 512];
    let heard = match stream.write_all(&hello).await {
        Ok(()) => timeout(PATIENCE, stream.read(&mut answer)).await,
        Err(error) => Ok(Err(error)),
    };
    tally.add(if matches!(heard, Ok(Ok(1..))) {
        "kept"
    } else {
        "closed"
    });
}

pub(super) async fn handshake(
    target: &Target,
    source: IpAddr,
    config: &Arc<ClientConfig>,
    tally: &mut Tally,
) {
    match target.handshake(source, config).await {
        Some(_left) => tally.add("kept"),
        None => tally.add("refused"),
    }
}
