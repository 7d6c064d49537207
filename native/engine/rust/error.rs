//! One error type. Codes are those of `@pilotlight/errors`; the TypeScript face turns them into `PlatformError`s.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    AlreadyExists,
    NotFound,
    PreconditionFailed,
    ResourceExhausted,
    Corrupt,
    Unsupported,
    Unavailable,
    Internal,
}

impl Code {
    /// The spelling on the other side of the boundary.
    pub fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalidArgument",
            Code::AlreadyExists => "alreadyExists",
            Code::NotFound => "notFound",
            Code::PreconditionFailed => "preconditionFailed",
            Code::ResourceExhausted => "resourceExhausted",
            Code::Corrupt => "corrupt",
            Code::Unsupported => "unsupported",
            Code::Unavailable => "unavailable",
            Code::Internal => "internal",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// The offending field as the caller spells it, e.g. `config.rope_theta` or `request.topP`.
    pub field: Option<String>,
    pub remedy: Option<&'static str>,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error { code, message: message.into(), field: None, remedy: None }
    }
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(Code::InvalidArgument, message).at(field)
    }
    pub fn unsupported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Error::new(Code::Unsupported, message).at(field)
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(Code::Internal, message)
    }
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
    pub fn remedy(mut self, remedy: &'static str) -> Self {
        self.remedy = Some(remedy);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Error {}

/// The text of a caught panic.
pub fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_string();
    }
    match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => "panic without a message".to_string(),
    }
}
