use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn header(length: u32) -> Vec<u8> {
    [&[ENCRYPTED_TAG, 0][..], &length.to_be_bytes()].concat()
}

#[test]
fn a_frame_is_admitted_step_by_step() {
    let stage = Stage::Opening.after(&[LABEL_TAG, 1, b'x']).unwrap();
    assert_eq!(stage, Stage::Labelled);
    let stage = stage.after(&header(1000)).unwrap();
    assert_eq!(stage, Stage::Body(1000));
    assert!(stage.admit(1000 + 12 + 16).is_ok());
    assert!(stage.admit(1000 + Stage::CIPHER + 1).is_err());
    assert_eq!(stage.after(&[0; 1028]).unwrap(), Stage::Spent);
    assert!(Stage::Spent.admit(1).is_err());
}

#[test]
fn long_and_plain_frames_are_refused_at_their_header() {
    assert!(Stage::Opening.after(&header(MAX_FRAME)).is_ok());
    assert!(Stage::Opening.after(&header(MAX_FRAME + 1)).is_err());
    assert!(Stage::Labelled.after(&header(u32::MAX)).is_err());
    // A label after a label, a plain message, an empty read.
    assert!(Stage::Labelled.after(&[LABEL_TAG, 1, b'x']).is_err());
    assert!(Stage::Opening.after(&[1, 2, 3]).is_err());
    assert!(Stage::Opening.after(&[]).is_err());
}

async fn listener(address: &str) -> (GuardedListener, Gate) {
    let gate = Gate::default();
    let layer = GuardedTcp::new(gate.clone()).await.unwrap();
    (layer.bind(address.parse().unwrap()).await.unwrap(), gate)
}

async fn dial(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    timeout(SOON, socket.connect(to)).await.unwrap().unwrap()
}

async fn closed(mut stream: TcpStream) -> bool {
    !matches!(
        timeout(SOON, stream.read(&mut [0]))
            .await
            .expect("neither closed nor answered"),
        Ok(1..)
    )
}

#[tokio::test]
async fn a_fifth_connection_of_one_address_is_closed_until_one_ends() {
    let (listener, gate) = listener("127.0.0.1:0").await;
    let to = listener.local_addr();
    let mut held = Vec::new();
    let mut dialled = Vec::new();
    for _ in 0..MAX_PER_ADDRESS {
        dialled.push(dial("127.0.0.1", to).await);
        held.push(listener.accept().await.unwrap());
    }
    let accepting = tokio::spawn(async move { listener.accept().await.map(|(_, from)| from) });
    assert!(closed(dial("127.0.0.1", to).await).await);
    assert_eq!(gate.refused_connections(), 1);
    held.pop();
    let next = dial("127.0.0.1", to).await;
    let from = timeout(SOON, accepting).await.unwrap().unwrap().unwrap();
    assert_eq!(from, next.local_addr().unwrap());
}

#[tokio::test]
async fn thirty_two_connections_are_the_most() {
    let (listener, gate) = listener("127.0.0.1:0").await;
    let to = listener.local_addr();
    let mut held = Vec::new();
    let mut dialled = Vec::new();
    for i in 0..MAX_CONNECTIONS {
        dialled.push(dial(&format!("127.0.1.{}", 1 + i / MAX_PER_ADDRESS), to).await);
        held.push(listener.accept().await.unwrap());
    }
    let accepting = tokio::spawn(async move { listener.accept().await });
    assert!(closed(dial("127.0.1.200", to).await).await);
    assert_eq!(gate.refused_connections(), 1);
    accepting.abort();
    drop(held);
    assert_eq!(gate.open().total, 0);
    assert!(gate.open().by_address.is_empty());
}

#[tokio::test]
async fn four_gigabytes_announced_are_refused_before_anything_is_allocated() {
    let (listener, gate) = listener("127.0.0.1:0").await;
    let mut attacker = dial("127.0.0.1", listener.local_addr()).await;
    attacker.write_all(&header(u32::MAX)).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let (mut reader, _writer) = stream.split();
    let mut tag = [0; 1];
    ProtoReader::peek_exact(&mut reader, &mut tag)
        .await
        .unwrap();
    assert_eq!(tag, [ENCRYPTED_TAG]);
    let error = ProtoReader::read_exact(&mut reader, &mut [0; ENCRYPTED_HEADER])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(gate.refused_frames(), 1);
}
