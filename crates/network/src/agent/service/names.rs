//! The name server of one network, at its DHCP addresses: it passes questions on to those of the host.
//!
//! Guests of a subnet that names no servers are sent here, so that names resolve wherever they do on the host, also when
//! its only resolver listens on the host's loopback. Nothing is kept and nothing is read but the number of a message:
//! a question goes out from a socket of its own, and only what its server says to that socket comes back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use madang_control::TaskGroup;
use madang_host::{Error, Result, netns::Netns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, warn};

use super::{Context, Place};
use crate::agent::wanted::METADATA;

/// Source: RFC 1035, 4.2.
const PORT: u16 = 53;
/// A message's fixed part. Source: RFC 1035, 4.1.1.
const HEADER_BYTES: usize = 12;
/// The largest message over UDP that servers are asked for. Source: RFC 6891, 6.2.5.
const MAX_BYTES: usize = 4096;
/// Questions of one network under way at a time, over UDP and over TCP; more are dropped, and guests ask again.
const MAX_QUESTIONS: usize = 64;
/// After which the next server is asked. Guests ask again after 5 s.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// The longest a connection lives: zone transfers are not for guests.
const CONNECTION_WITHIN: Duration = Duration::from_secs(30);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

/// Opens the sockets and answers until the group stops.
pub(super) async fn start(context: &Arc<Context>, place: &Place, netns: &Netns, group: &TaskGroup) -> Result<()> {
    let own = place.addresses.iter().filter_map(|address| match address.addr() {
        IpAddr::V4(address) if address != METADATA => Some(address),
        _ => None,
    });
    for address in own {
        let failed = Error::io(format!("listen for questions at {address}"));
        let (udp, tcp) = netns.run(move || open(address)).await?.map_err(failed)?;
        let relay = Arc::new(Relay {
            servers: context.name_servers.clone(),
            outside: context.outside.clone(),
            places: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            questions: group.clone(),
        });
        let over_tcp = Arc::clone(&relay);
        group.spawn_until_stopped("names", async move { relay.answer(Arc::new(udp)).await });
        group.spawn_until_stopped("names-tcp", async move { over_tcp.accept(tcp).await });
    }
    Ok(())
}

fn open(address: Ipv4Addr) -> io::Result<(UdpSocket, TcpListener)> {
    let at: SocketAddr = SocketAddrV4::new(address, PORT).into();
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    udp.set_nonblocking(true)?;
    udp.bind(&at.into())?;
    let tcp = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    tcp.set_nonblocking(true)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&at.into())?;
    tcp.listen(BACKLOG)?;
    Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?))
}

struct Relay {
    /// Best first.
    servers: Vec<IpAddr>,
    /// Where they are.
    outside: Netns,
    places: Arc<Semaphore>,
    questions: TaskGroup,
}

impl Relay {
    async fn answer(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0; MAX_BYTES];
        loop {
            let (size, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // A guest that went before its answer came shows up here, too.
                    debug!(%error, "could not receive a question");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let question = buffer[..size].to_vec();
            if !is_question(&question) {
                continue;
            }
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                continue;
            };
            let (relay, socket) = (Arc::clone(&self), Arc::clone(&socket));
            self.questions.spawn_until_stopped("question", async move {
                let _place = place;
                let answer = relay.ask_all(&question).await.unwrap_or_else(|| failure(&question));
                if let Err(error) = socket.send_to(&answer, from).await {
                    debug!(%from, %error, "could not answer a question");
                }
            });
        }
    }

    async fn ask_all(&self, question: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            match timeout(ANSWER_WITHIN, self.ask(*server, question)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => debug!(%server, %error, "a name server cannot be asked"),
                Err(_) => debug!(%server, "a name server says nothing"),
            }
        }
        None
    }

    async fn ask(&self, server: IpAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let opened = self.outside.run(move || {
            let any: SocketAddr = match server {
                IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let socket = std::net::UdpSocket::bind(any)?;
            // Only its server is heard.
            socket.connect((server, PORT))?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        });
        let socket = opened.await.map_err(|error| io::Error::other(error.chain()))??;
        socket.send(question).await?;
        let mut answer = vec![0; MAX_BYTES];
        loop {
            let size = socket.recv(&mut answer).await?;
            if size >= HEADER_BYTES && answer[..2] == question[..2] {
                answer.truncate(size);
                return Ok(answer);
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let relay = Arc::clone(&self);
                    self.questions.spawn_until_stopped("questions-tcp", async move {
                        let _place = place;
                        let _ = timeout(CONNECTION_WITHIN, relay.pass_on(stream)).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "could not accept a connection of a resolver");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn pass_on(&self, mut guest: TcpStream) {
        for server in self.servers.iter().copied() {
            let opened = self.outside.run(move || match server {
                IpAddr::V4(_) => TcpSocket::new_v4(),
                IpAddr::V6(_) => TcpSocket::new_v6(),
            });
            let Ok(Ok(socket)) = opened.await else { continue };
            let connecting = socket.connect((server, PORT).into());
            if let Ok(Ok(mut upstream)) = timeout(ANSWER_WITHIN, connecting).await {
                let _ = copy_bidirectional(&mut guest, &mut upstream).await;
                return;
            }
        }
    }
}

/// Whether it is a message with the bit for answers not set.
fn is_question(message: &[u8]) -> bool {
    message.len() >= HEADER_BYTES && message[2] & 0x80 == 0
}

/// "Server failure", with the question's number and nothing else. Source: RFC 1035, 4.1.1.
fn failure(question: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; HEADER_BYTES];
    answer[..2].copy_from_slice(&question[..2]);
    // It is an answer; the kind of question and "recursion desired" are repeated.
    answer[2] = 0x80 | (question[2] & 0x79);
    // Recursion is available, and this time it failed.
    answer[3] = 0x82;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_questions_are_passed_on() {
        let question = [0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        assert!(is_question(&question));
        assert!(!is_question(&question[..11]));
        let mut answer = question;
        answer[2] |= 0x80;
        assert!(!is_question(&answer));
    }

    #[test]
    fn without_a_server_the_question_is_answered_with_failure() {
        let answer = failure(&[0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer, [0xab, 0xcd, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
