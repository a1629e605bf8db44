//! Answers of HTTP, taken apart.

use serde_json::Value;

use crate::cores::{Client, Cores};
use starling::config::ListenKind;

/// The first answer in what a client has heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    /// All that comes behind the head.
    pub body: String,
}

impl Answer {
    pub fn of(heard: &str) -> Answer {
        let (head, body) = heard.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {heard}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
        let field =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        Answer {
            status: status.unwrap_or_else(|| panic!("no status: {heard}")),
            fields: lines.map(|line| field(line).unwrap_or_else(|| panic!("no field: {line}"))).collect(),
            body: body.to_owned(),
        }
    }

    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The status, and the word for what is wrong.
    pub fn error(&self) -> (u16, String) {
        let error = self.json();
        assert_eq!((&error["type"], &error["code"]), (&"error".into(), &self.status.into()));
        (self.status, error["reason"].as_str().expect("a reason").to_owned())
    }
}

/// What a request by this method for this target, with these fields, each ended by CRLF, is answered on a connection of its own.
pub fn ask(cores: &mut Cores, core: usize, line: &str, fields: &str) -> Answer {
    Answer::of(&cores.http(core, &request(line, fields)))
}

/// Such a request.
pub fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// A client of the web listener, who has said this.
pub fn browser(cores: &mut Cores, core: usize, said: &str) -> Client {
    let client = cores.connect(core, ListenKind::Web);
    cores.receive(client, said.as_bytes());
    client
}
