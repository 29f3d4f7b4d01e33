//! Replies: how a server writes them and what a client believes (`spec/confd.md` §3, §7.2).

use super::ascii;
use super::keys::Keys;
use super::wire::{Form, Mac, Outer, REPLY_BYTES_MAX, seal_reply};
use serde::Deserialize;
use serde_json::Value;

/// How far the clocks of a server and a client may be apart, seconds.
pub const CLOCK_S: u64 = 300;

/// Why there is no answer, as a number (`spec/confd.md` §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Nothing of that name or address.
    UnknownEntry = 0,
    /// The server's fault.
    Internal = 1,
    /// A query this type can't have.
    Argument = 2,
}

/// What a server says.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Whether it is an answer.
    pub ok: bool,
    /// The answer, or what is wrong; JSON in ASCII.
    pub answer: &'a str,
    /// Serial of what the answer comes from.
    pub serial: u64,
}

/// What a reply of the second form says of its server.
#[derive(Debug, Clone, Copy)]
pub struct Server<'a> {
    /// Its clock, seconds.
    pub time: u64,
    /// Serial of its whole configuration.
    pub config_serial: u64,
    /// Its node's name, as JSON in ASCII.
    pub node: &'a str,
}

/// The reply to a request with that MAC and rsalt. One that would be too long for its receiver is an internal error
/// instead, and the second value says so.
#[must_use]
pub fn seal(
    form: Form,
    keys: &Keys,
    request: &Mac,
    rsalt: &str,
    said: Said<'_>,
    server: Server<'_>,
) -> (Vec<u8>, bool) {
    let datagram = seal_reply(form, keys, request, rsalt, &message(form, said, server));
    if datagram.len() <= REPLY_BYTES_MAX {
        return (datagram, false);
    }
    let said = Said { ok: false, answer: "1", serial: 0 };
    (seal_reply(form, keys, request, rsalt, &message(form, said, server)), true)
}

fn message(form: Form, said: Said<'_>, server: Server<'_>) -> String {
    let Said { ok, answer, serial } = said;
    let status = u8::from(!ok);
    match form {
        Form::Legacy => format!(r#"{{"protocol":1,"status":{status},"answer":{answer},"serial":{serial}}}"#),
        Form::Second => {
            let Server { time, config_serial, node } = server;
            format!(
                concat!(
                    r#"{{"protocol":2,"status":{status},"answer":{answer},"serial":{serial},"time":{time},"#,
                    r#""config_serial":{config_serial},"node":{node}}}"#
                ),
                status = status,
                answer = answer,
                serial = serial,
                time = time,
                config_serial = config_serial,
                node = node
            )
        }
    }
}

/// A text as [`Said::answer`] and [`Server::node`] want it.
#[must_use]
pub fn quoted(text: &str) -> String {
    ascii::to_string(text, usize::MAX).expect("no text is longer than memory")
}

/// A reply that is to be believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Whether it is an answer.
    pub ok: bool,
    /// The answer, or what is wrong.
    pub answer: Value,
    /// Serial of what the answer comes from.
    pub serial: u64,
    /// Serial of the server's configuration; 0 in the legacy form.
    pub config_serial: u64,
    /// The server's clock, seconds; 0 in the legacy form.
    pub time: u64,
    /// The server's name; empty in the legacy form.
    pub node: String,
}

impl Heard {
    /// What makes one reply better than another: an answer before an error, then the newest.
    #[must_use]
    pub fn worth(&self) -> (bool, u64, u64, u64) {
        (self.ok, self.serial, self.config_serial, self.time)
    }
}

/// Why a reply is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Of no or another form: a client takes the form it asked in and no other.
    #[error("it is of another form")]
    Form,
    /// Another request's.
    #[error("it answers no request of this client")]
    Salt,
    /// Not made by a holder of the key, or for another request.
    #[error("its MAC is wrong")]
    Mac,
    /// No reply inside.
    #[error("its message is no reply")]
    Message,
    /// Too old, or from a server whose clock is off.
    #[error("the server's clock differs by {0} s")]
    Clock(u64),
}

#[derive(Deserialize)]
struct Message {
    status: u8,
    answer: Value,
    serial: u64,
    #[serde(default)]
    config_serial: u64,
    time: Option<u64>,
    #[serde(default)]
    node: String,
}

/// Reads a reply to the request with that MAC and rsalt.
///
/// # Errors
/// It is not to be believed.
pub fn open(
    form: Form,
    keys: &Keys,
    request: &Mac,
    rsalt: &str,
    outer: &Outer,
    now_s: u64,
) -> Result<Heard, ReplyError> {
    if outer.form != form {
        return Err(ReplyError::Form);
    }
    if outer.salt != rsalt {
        return Err(ReplyError::Salt);
    }
    if !outer.is_reply_of(keys, request) {
        return Err(ReplyError::Mac);
    }
    let said: Message = serde_json::from_str(&outer.msg).map_err(|_| ReplyError::Message)?;
    let time = match (form, said.time) {
        (Form::Legacy, _) => 0,
        (Form::Second, None) => return Err(ReplyError::Message),
        (Form::Second, Some(time)) if time.abs_diff(now_s) > CLOCK_S => {
            return Err(ReplyError::Clock(time.abs_diff(now_s)));
        }
        (Form::Second, Some(time)) => time,
    };
    let Message { status, answer, serial, config_serial, node, time: _ } = said;
    Ok(Heard { ok: status == 0, answer, serial, config_serial, time, node })
}

#[cfg(test)]
mod tests {
    use super::super::keys::tests::FILE;
    use super::super::wire::seal_request;
    use super::*;

    const RSALT: &str = "0123456789abcdef";
    const SERVER: Server<'static> = Server { time: 1000, config_serial: 9, node: r#""n1""# };

    fn keys() -> Keys {
        Keys::new(FILE).unwrap()
    }

    fn reply(form: Form, answer: &str) -> (Outer, Mac, bool) {
        let (_, mac) = seal_request(form, &keys(), "1000", "m");
        let (datagram, cut) = seal(form, &keys(), &mac, RSALT, Said { ok: true, answer, serial: 7 }, SERVER);
        assert!(datagram.len() <= REPLY_BYTES_MAX);
        (Outer::parse(&datagram).unwrap(), mac, cut)
    }

    #[test]
    fn a_reply_is_read_back_in_both_forms() {
        for form in [Form::Legacy, Form::Second] {
            let (outer, mac, _) = reply(form, r#"["a","\u00e4"]"#);
            let heard = open(form, &keys(), &mac, RSALT, &outer, 1000).unwrap();
            assert_eq!((heard.ok, heard.serial, heard.answer), (true, 7, serde_json::json!(["a", "ä"])));
            let second = form == Form::Second;
            assert_eq!(
                (heard.config_serial, heard.time, heard.node.as_str()),
                if second { (9, 1000, "n1") } else { (0, 0, "") }
            );
        }
    }

    #[test]
    fn only_the_own_fresh_reply_of_the_form_asked_in_is_believed() {
        let (outer, mac, _) = reply(Form::Second, "1");
        let read = |form, mac: &Mac, rsalt: &str, now| open(form, &keys(), mac, rsalt, &outer, now).map(drop);
        assert_eq!(read(Form::Legacy, &mac, RSALT, 1000), Err(ReplyError::Form));
        assert_eq!(read(Form::Second, &mac, "another", 1000), Err(ReplyError::Salt));
        let (_, other) = seal_request(Form::Second, &keys(), "1000", "other");
        assert_eq!(read(Form::Second, &other, RSALT, 1000), Err(ReplyError::Mac));
        assert_eq!(read(Form::Second, &mac, RSALT, 1300), Ok(()));
        assert_eq!(read(Form::Second, &mac, RSALT, 1301), Err(ReplyError::Clock(301)));
        assert_eq!(read(Form::Second, &mac, RSALT, 699), Err(ReplyError::Clock(301)));
        let other = Keys::new(&[1; 32]).unwrap();
        assert_eq!(open(Form::Second, &other, &mac, RSALT, &outer, 1000), Err(ReplyError::Mac));
    }

    #[test]
    fn the_longest_reply_and_the_one_too_long() {
        for form in [Form::Legacy, Form::Second] {
            let (_, mac) = seal_request(form, &keys(), "1000", "m");
            let long = |bytes: usize| {
                let answer = "7".repeat(bytes);
                seal(form, &keys(), &mac, RSALT, Said { ok: true, answer: &answer, serial: 7 }, SERVER)
            };
            let rest = long(1).0.len() - 1;
            let (longest, cut) = long(REPLY_BYTES_MAX - rest);
            assert_eq!((longest.len(), cut), (REPLY_BYTES_MAX, false));
            let (short, cut) = long(REPLY_BYTES_MAX - rest + 1);
            assert!(cut);
            let heard = open(form, &keys(), &mac, RSALT, &Outer::parse(&short).unwrap(), 1000).unwrap();
            assert_eq!((heard.ok, heard.answer, heard.serial), (false, serde_json::json!(1), 0));
        }
    }
}
