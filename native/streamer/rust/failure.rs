//! What can go wrong with one range. The kinds tell the caller what to do; the messages never hold a header's value.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The caller asked to stop.
    Cancelled,
    /// The connection could not be made, broke, or was silent for too long: worth another attempt.
    Connection,
    /// The server answered something else than the range: the caller finds out what and why.
    Answer,
    /// A block does not match its checksum.
    Corrupt,
    /// The file could not be written (`os` holds the error number).
    File,
    /// A request that cannot be sent, or a bug.
    Internal,
}

impl Kind {
    /// The spelling on the other side of the boundary.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Cancelled => "cancelled",
            Kind::Connection => "connection",
            Kind::Answer => "answer",
            Kind::Corrupt => "corrupt",
            Kind::File => "file",
            Kind::Internal => "internal",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// The system's error number, for `File`.
    pub os: Option<i32>,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            message: message.into(),
            os: None,
        }
    }
    pub fn connection(error: &std::io::Error) -> Self {
        Failure::new(Kind::Connection, error.to_string())
    }
    pub fn file(error: &std::io::Error) -> Self {
        Failure {
            kind: Kind::File,
            message: error.to_string(),
            os: error.raw_os_error(),
        }
    }
}
