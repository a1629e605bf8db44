//! What is agreed on about compression: the offers of `Sec-WebSocket-Extensions` (RFC 6455, 9.1) and the answer
//! (permessage-deflate, RFC 7692, 7.1).

use super::deflate::WINDOW_BITS_MAX;

/// The one extension that is known.
const NAME: &str = "permessage-deflate";

const SERVER_NO_CONTEXT: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT: &str = "client_no_context_takeover";
const SERVER_BITS: &str = "server_max_window_bits";
const CLIENT_BITS: &str = "client_max_window_bits";

/// A value that is not of the form that RFC 6455, 9.1 gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// How a client would have messages compressed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The server is not to refer to earlier messages.
    server_no_context: bool,
    /// The client will not.
    client_no_context: bool,
    /// How far the server may refer back, if that is bounded.
    server_bits: Option<u8>,
    /// How far the client will refer back, if it knows.
    client_bits: Option<u8>,
}

/// How messages are compressed on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// Whether the server may refer to its earlier messages.
    pub server_keeps_context: bool,
    /// Whether the client may refer to its own.
    pub client_keeps_context: bool,
    /// The server refers back by at most `2` to this bytes.
    pub server_bits: u8,
    /// So does the client.
    pub client_bits: u8,
    offer: Offer,
}

impl Offer {
    /// The first offer of compression that can be accepted, among the values of all fields of that name, in their order. One
    /// with a parameter that is unknown, not as it should be, or there twice, is passed over (RFC 7692, 7).
    pub fn first<'a>(values: impl Iterator<Item = &'a str>) -> Result<Option<Offer>, Malformed> {
        let mut accepted = None;
        for value in values {
            let mut rest = Scanner { rest: value };
            loop {
                rest.space();
                // An empty element is nothing (RFC 9110, 5.6.1).
                if !rest.rest.is_empty() && !rest.rest.starts_with(',') {
                    let offer = rest.extension()?;
                    accepted = accepted.or(offer);
                }
                if rest.rest.is_empty() {
                    break;
                }
                rest.byte(b',')?;
            }
        }
        Ok(accepted)
    }

    /// What it comes to. Without `may_keep_context` neither side refers to earlier messages.
    pub fn agree(self, may_keep_context: bool) -> Agreement {
        Agreement {
            server_keeps_context: may_keep_context && !self.server_no_context,
            client_keeps_context: may_keep_context && !self.client_no_context,
            server_bits: self.server_bits.unwrap_or(WINDOW_BITS_MAX),
            client_bits: self.client_bits.unwrap_or(WINDOW_BITS_MAX),
            offer: self,
        }
    }

    /// Whether one side would refer to its earlier messages if it may.
    pub fn wants_context(self) -> bool {
        !self.server_no_context || !self.client_no_context
    }

    fn add(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        let is_bare = value.is_none();
        match name {
            SERVER_NO_CONTEXT if is_bare => self.server_no_context = true,
            CLIENT_NO_CONTEXT if is_bare => self.client_no_context = true,
            SERVER_BITS => self.server_bits = Some(window_bits(value?)?),
            // Without a value it says that the server may ask for a window (7.1.2.2), which costs nothing here.
            CLIENT_BITS => {
                self.client_bits = value.map_or(Some(None), |value| window_bits(value).map(Some))?
            }
            _ => return None,
        }
        Some(())
    }
}

impl Agreement {
    /// Writes the value of the answer's field.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(NAME.as_bytes());
        let bare =
            [(SERVER_NO_CONTEXT, self.server_keeps_context), (CLIENT_NO_CONTEXT, self.client_keeps_context)];
        for (name, keeps_context) in bare {
            if !keeps_context {
                out.extend_from_slice(b"; ");
                out.extend_from_slice(name.as_bytes());
            }
        }
        for (name, bits) in [(SERVER_BITS, self.offer.server_bits), (CLIENT_BITS, self.offer.client_bits)] {
            if let Some(bits) = bits {
                out.extend_from_slice(format!("; {name}={bits}").as_bytes());
            }
        }
    }
}

/// 8 to 15, without leading zeros (7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    (8..=WINDOW_BITS_MAX).find(|bits| bits.to_string() == value)
}

/// Takes the tokens of a list apart.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// One extension with its parameters; an offer, if it is one that can be accepted.
    fn extension(&mut self) -> Result<Option<Offer>, Malformed> {
        let name = self.token()?;
        let mut offer = name.eq_ignore_ascii_case(NAME).then(Offer::default);
        let mut seen: Vec<&str> = Vec::new();
        loop {
            self.space();
            if !self.rest.starts_with(';') {
                return Ok(offer);
            }
            self.byte(b';')?;
            self.space();
            let parameter = self.token()?;
            self.space();
            let value = if self.rest.starts_with('=') {
                self.byte(b'=')?;
                self.space();
                Some(self.value()?)
            } else {
                None
            };
            if let Some(known) = &mut offer
                && (seen.contains(&parameter) || known.add(parameter, value.as_deref()).is_none())
            {
                offer = None;
            }
            // Of an offer that is still one, the parameters are all known, and so there are few.
            if offer.is_some() {
                seen.push(parameter);
            }
        }
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.rest = self.rest.strip_prefix(char::from(byte)).ok_or(Malformed)?;
        Ok(())
    }

    /// A token (RFC 9110, 5.6.2).
    fn token(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.find(|c| !is_token_char(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, or one in quotation marks: without them it has to be one as well (RFC 6455, 9.1).
    fn value(&mut self) -> Result<String, Malformed> {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.token().map(str::to_owned) };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if !value.is_empty() => {
                    self.rest = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' => {
                    value.push(chars.next().map(|(_, c)| c).filter(|c| is_token_char(*c)).ok_or(Malformed)?)
                }
                c if is_token_char(c) => value.push(c),
                _ => return Err(Malformed),
            }
        }
        Err(Malformed)
    }
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to offers, with contexts and without.
    fn answers(values: &[&str]) -> Result<Option<[String; 2]>, Malformed> {
        let offer = Offer::first(values.iter().copied())?;
        Ok(offer.map(|offer| {
            [true, false].map(|may_keep| {
                let mut out = Vec::new();
                offer.agree(may_keep).put(&mut out);
                String::from_utf8(out).unwrap()
            })
        }))
    }

    fn answer(values: &[&str]) -> String {
        answers(values).unwrap().expect("an offer that can be accepted")[0].clone()
    }

    #[test]
    fn the_offers_of_the_rfc_are_answered() {
        assert_eq!(
            answers(&["permessage-deflate"]),
            Ok(Some([
                "permessage-deflate".to_owned(),
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned()
            ]))
        );
        // 7.1.3: all parameters, and an offer to fall back on.
        assert_eq!(
            answer(&[
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate"
            ]),
            "permessage-deflate; server_max_window_bits=10"
        );
        assert_eq!(
            answer(&["permessage-deflate; server_no_context_takeover; client_max_window_bits=12"]),
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=12"
        );
        assert_eq!(
            answer(&["permessage-deflate;client_no_context_takeover ; server_max_window_bits = \"8\""]),
            "permessage-deflate; client_no_context_takeover; server_max_window_bits=8"
        );
    }

    #[test]
    fn a_value_in_quotation_marks_may_have_its_characters_escaped() {
        let answered = "permessage-deflate; server_max_window_bits=10";
        for offer in [r#"server_max_window_bits="10""#, r#"server_max_window_bits="\1\0""#] {
            assert_eq!(answer(&[&format!("permessage-deflate; {offer}")]), answered, "{offer}");
        }
        for wrong in [r#"a="b\(""#, r#"a="\"""#, r#"a="b\"#] {
            assert_eq!(answers(&[&format!("permessage-deflate; {wrong}")]), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn the_first_offer_that_can_be_accepted_is_across_lists_and_fields() {
        assert_eq!(
            answer(&[
                "x-webkit-deflate-frame, permessage-deflate; mystery, ",
                ",, PerMessage-Deflate; client_max_window_bits=9"
            ]),
            "permessage-deflate; client_max_window_bits=9"
        );
        assert_eq!(
            answer(&["foo; a=\"b\", permessage-deflate; server_max_window_bits=11, permessage-deflate"]),
            "permessage-deflate; server_max_window_bits=11"
        );
        assert_eq!(answers(&["foo; bar=1, permessage-bzip2"]), Ok(None));
        assert_eq!(answers(&[]), Ok(None));
        assert_eq!(answers(&["", " , "]), Ok(None));
    }

    #[test]
    fn offers_with_a_wrong_parameter_are_passed_over() {
        for wrong in [
            "server_no_context_takeover=1",
            "client_no_context_takeover=true",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=+9",
            "client_max_window_bits=0",
            "client_max_window_bits=16",
            "client_max_window_bits=\"99999999999999999999\"",
            "Client_Max_Window_Bits=9",
            "unknown",
            "server_no_context_takeover; server_no_context_takeover",
            "client_max_window_bits; client_max_window_bits=10",
            "server_max_window_bits=10; server_max_window_bits=10",
        ] {
            let offer = format!("permessage-deflate; {wrong}");
            assert_eq!(answers(&[&offer]), Ok(None), "{wrong}");
            let with_fallback = format!("{offer}, permessage-deflate");
            assert_eq!(answer(&[&with_fallback]), "permessage-deflate", "{wrong}");
        }
    }

    #[test]
    fn what_is_no_list_of_extensions_is_malformed() {
        for wrong in [
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"b",
            "permessage-deflate; a=\"b c\"",
            "permessage-deflate; a=\"b\\",
            "permessage-deflate a",
            "; a",
            "a=b",
            "permessage-deflate, (",
            "ключ",
        ] {
            assert_eq!(answers(&[wrong]), Err(Malformed), "{wrong}");
        }
    }

    #[test]
    fn a_context_is_kept_where_both_sides_would() {
        let offer =
            Offer::first(["permessage-deflate; server_no_context_takeover"].into_iter()).unwrap().unwrap();
        assert!(offer.wants_context());
        let agreement = offer.agree(true);
        assert!(!agreement.server_keeps_context && agreement.client_keeps_context);
        let agreement = offer.agree(false);
        assert!(!agreement.server_keeps_context && !agreement.client_keeps_context);
        let offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert!(!Offer::first([offer].into_iter()).unwrap().unwrap().wants_context());
    }
}
