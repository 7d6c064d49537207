//! One connection to a server, plain or TLS, and a shelf of idle ones.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To accept a connection, for each of its addresses.
    pub connect: Duration,
    /// Between two signs of life on it.
    pub silence: Duration,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub secure: bool,
    pub host: String,
    pub port: u16,
}

pub enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    /// Connects to the server's first address that answers.
    pub fn open(server: &Server, patience: Patience) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in (server.host.as_str(), server.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience.connect) {
                Ok(stream) => return Connection::start(server, stream, patience.silence),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn start(server: &Server, stream: TcpStream, silence: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(silence))?;
        stream.set_write_timeout(Some(silence))?;
        if !server.secure {
            return Ok(Connection::Plain(stream));
        }
        let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
        let session = ClientConnection::new(tls_config()?, name).map_err(io::Error::other)?;
        Ok(Connection::Tls(Box::new(StreamOwned::new(session, stream))))
    }

    /// The socket under it, to shut it down from another thread.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Connection::Plain(stream) => stream,
            Connection::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(stream) => stream.read(buffer),
            Connection::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(stream) => stream.write(bytes),
            Connection::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Plain(stream) => stream.flush(),
            Connection::Tls(stream) => stream.flush(),
        }
    }
}

/// The machine's own certificate authorities (or SSL_CERT_FILE's), read once.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(io::Error::other(
            "this machine has no certificate authorities; install ca-certificates",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

/// Idle connections of all threads, so that there are as many as ranges at once, not as threads. The one used last goes first: its
/// windows are open, and those that are not needed grow old.
pub struct Shelf {
    idle: Mutex<VecDeque<(Server, Connection)>>,
    connections_max: usize,
}

impl Shelf {
    pub fn new(connections_max: usize) -> Shelf {
        Shelf {
            idle: Mutex::default(),
            connections_max,
        }
    }

    pub fn take(&self, server: &Server) -> Option<Connection> {
        let mut idle = self.idle.lock().expect("no panic while locked");
        let index = idle.iter().rposition(|(to, _)| to == server)?;
        idle.remove(index).map(|(_, connection)| connection)
    }

    /// Beyond the limit the one that was idle longest is closed.
    pub fn put(&self, server: Server, connection: Connection) {
        let mut idle = self.idle.lock().expect("no panic while locked");
        idle.push_back((server, connection));
        let oldest = (idle.len() > self.connections_max).then(|| idle.pop_front());
        drop(idle);
        drop(oldest);
    }
}
