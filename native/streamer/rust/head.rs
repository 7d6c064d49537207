//! The head of an HTTP/1.1 exchange: writing the request, understanding the answer. Pure but for the types.

use crate::failure::{Failure, Kind};
use crate::transfer::Request;

const HEADERS_MAX: usize = 64;

/// The request's bytes. A header that could smuggle another line is refused.
pub fn request_head(request: &Request) -> Result<Vec<u8>, Failure> {
    let last = request.offset + request.length - 1;
    let mut head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: pilotlight\r\nrange: bytes={}-{last}\r\n",
        request.path, request.authority, request.offset
    );
    if let Some(etag) = &request.etag {
        head.push_str(&format!("if-match: \"{etag}\"\r\n"));
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let lines = 4 + usize::from(request.etag.is_some()) + request.headers.len() + 1;
    if head.matches(['\r', '\n']).count() != 2 * lines || head.contains('\0') {
        return Err(Failure::new(
            Kind::Internal,
            "a header or the path holds a line break",
        ));
    }
    Ok(head.into_bytes())
}

/// What matters of an answer that is the range.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes of the head, its empty line included.
    pub head: usize,
    pub keep_alive: bool,
}

/// Reads an answer's head: `None` while it is incomplete. Anything but the range that was asked for is `Answer`.
pub fn parse_answer(bytes: &[u8], request: &Request) -> Result<Option<Answer>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => {
            return Err(Failure::new(
                Kind::Answer,
                format!("malformed answer: {error}"),
            ));
        }
    };
    let status = response.code.unwrap_or(0);
    if status != 206 {
        return Err(Failure::new(Kind::Answer, format!("status {status}")));
    }
    let header = |name: &str| {
        let found = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    let range = format!(
        "bytes {}-{}/",
        request.offset,
        request.offset + request.length - 1
    );
    if !header("content-range").is_some_and(|value| value.starts_with(&range)) {
        return Err(Failure::new(
            Kind::Answer,
            "the answer is another range than was asked for",
        ));
    }
    if header("content-length").and_then(|value| value.parse().ok()) != Some(request.length) {
        return Err(Failure::new(
            Kind::Answer,
            "the answer's length is not the range's",
        ));
    }
    if let (Some(expected), Some(got)) = (&request.etag, header("etag"))
        && got.trim_matches('"') != expected
    {
        return Err(Failure::new(Kind::Answer, "the object was replaced"));
    }
    let keep_alive = !header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Answer {
        head,
        keep_alive: keep_alive && response.version == Some(1),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            offset: 100,
            length: 50,
            etag: Some("abc".into()),
            ..Request::for_tests()
        }
    }

    fn answer(head: &str) -> Result<Option<Answer>, Failure> {
        parse_answer(head.as_bytes(), &request())
    }

    #[test]
    fn the_request_asks_for_the_range_under_the_etag() {
        let head = String::from_utf8(request_head(&request()).unwrap()).unwrap();
        assert!(head.starts_with("GET /bucket/key HTTP/1.1\r\nhost: 127.0.0.1:1\r\n"));
        assert!(head.contains("\r\nrange: bytes=100-149\r\nif-match: \"abc\"\r\n"));
        assert!(head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn line_breaks_in_headers_are_refused() {
        for value in ["x\r\nevil: 1", "x\n", "x\r", "x\0"] {
            let bad = Request {
                headers: vec![("a".into(), value.into())],
                ..request()
            };
            assert_eq!(request_head(&bad).unwrap_err().kind, Kind::Internal);
        }
        assert!(
            request_head(&Request {
                path: "/a\r\nb".into(),
                ..request()
            })
            .is_err()
        );
    }

    #[test]
    fn only_the_very_range_is_an_answer() {
        let good = "HTTP/1.1 206 X\r\nContent-Range: bytes 100-149/999\r\nContent-Length: 50\r\nETag: \"abc\"\r\n\r\n";
        assert_eq!(
            answer(good).unwrap(),
            Some(Answer {
                head: good.len(),
                keep_alive: true
            })
        );
        assert_eq!(answer(&good[..40]).unwrap(), None);
        for (from, to) in [
            ("206", "200"),
            ("206", "503"),
            ("100-149", "100-148"),
            ("Content-Range", "X"),
            ("Length: 50", "Length: 51"),
            ("Content-Length", "X"),
            ("\"abc\"", "\"abd\""),
            ("HTTP/1.1", "SPAM"),
        ] {
            assert_eq!(
                answer(&good.replace(from, to)).unwrap_err().kind,
                Kind::Answer,
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn a_connection_is_kept_unless_the_server_closes_it() {
        let head = "HTTP/1.1 206 X\r\nContent-Range: bytes 100-149/*\r\nContent-Length: 50\r\nConnection: close\r\n\r\n";
        assert!(!answer(head).unwrap().unwrap().keep_alive);
        assert!(
            !answer(&head.replace("1.1", "1.0").replace("close", "x"))
                .unwrap()
                .unwrap()
                .keep_alive
        );
    }
}
