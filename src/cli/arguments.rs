//! The words of a command line.
//!
//! Options may stand anywhere; after `--` every word is an operand. `--name=value` is `--name value`.

use crate::catalog::Target;
use crate::types::Txid;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the program was asked to do.
#[derive(Debug, PartialEq)]
pub enum Arguments {
    Help,
    Version,
    List { url: String, json: bool },
    Doctor { url: String, json: bool },
    Restore { url: String, path: PathBuf, target: Target, json: bool },
}

/// Why a command line means nothing.
#[derive(Debug, PartialEq)]
pub struct Usage(pub String);

/// Understands the words after the program's name.
pub fn parse(words: Vec<OsString>) -> Result<Arguments, Usage> {
    let mut words = words.into_iter();
    let verb = words.next().ok_or_else(|| Usage("no command given".to_owned()))?;
    let rest = Words::split(words)?;
    if rest.help {
        return Ok(Arguments::Help);
    }
    match verb.to_str() {
        Some("--help" | "-h" | "help") => Ok(Arguments::Help),
        Some("--version" | "-V") => Ok(Arguments::Version),
        Some("restore") => {
            let [url, path] = operands("restore", ["URL", "PATH"], rest.operands)?;
            let target = rest.txid.map_or(Target::Newest, Target::Txid);
            Ok(Arguments::Restore { url: text(url)?, path: path.into(), target, json: rest.json })
        }
        Some(verb @ ("list" | "doctor")) if rest.txid.is_some() => {
            Err(Usage(format!("{verb} takes no --txid")))
        }
        Some(verb @ ("list" | "doctor")) => {
            let [url] = operands(verb, ["URL"], rest.operands)?;
            let (url, json) = (text(url)?, rest.json);
            Ok(if verb == "list" { Arguments::List { url, json } } else { Arguments::Doctor { url, json } })
        }
        _ => Err(Usage(format!("unknown command {verb:?}; there are restore, list and doctor"))),
    }
}

/// Words sorted into options and operands.
#[derive(Default)]
struct Words {
    txid: Option<Txid>,
    json: bool,
    help: bool,
    operands: Vec<OsString>,
}

impl Words {
    fn split(mut words: impl Iterator<Item = OsString>) -> Result<Words, Usage> {
        let mut found = Words::default();
        while let Some(word) = words.next() {
            let Some(option) = word.to_str().filter(|word| word.starts_with('-')) else {
                found.operands.push(word);
                continue;
            };
            match option.split_once('=').unwrap_or((option, "")) {
                ("--", "") => found.operands.extend(words.by_ref()),
                ("--help" | "-h", "") => found.help = true,
                ("--json", "") => found.json = true,
                ("--txid", "") => {
                    let value = words.next().unwrap_or_default();
                    found.txid = Some(txid(&value.to_string_lossy())?);
                }
                ("--txid", value) => found.txid = Some(txid(value)?),
                _ => return Err(Usage(format!("unknown option {option:?}"))),
            }
        }
        Ok(found)
    }
}

/// A number, or exactly 16 hex digits.
fn txid(text: &str) -> Result<Txid, Usage> {
    let decimal = || {
        text.parse().ok().filter(|_| text.starts_with(|c: char| ('1'..='9').contains(&c))).and_then(Txid::new)
    };
    let parsed = if text.len() == 16 { Txid::from_hex(text) } else { decimal() };
    parsed.ok_or_else(|| {
        Usage(format!("{text:?} is no txid: expected a number from 1, or exactly 16 hex digits"))
    })
}

fn operands<const N: usize>(
    verb: &str,
    names: [&str; N],
    operands: Vec<OsString>,
) -> Result<[OsString; N], Usage> {
    let wanted = names.join(" ");
    operands
        .try_into()
        .map_err(|found: Vec<_>| Usage(format!("{verb} takes {wanted}, found {} words", found.len())))
}

fn text(word: OsString) -> Result<String, Usage> {
    word.into_string().map_err(|word| Usage(format!("the URL {word:?} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, Usage> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    fn restore(txid: Option<u64>, json: bool) -> Arguments {
        let target = txid.map_or(Target::Newest, |txid| Target::Txid(Txid::new(txid).unwrap()));
        Arguments::Restore { url: "file:///r".to_owned(), path: "x.db".into(), target, json }
    }

    #[test]
    fn options_stand_anywhere() {
        for line in ["restore --txid 11 --json file:///r x.db", "restore file:///r --txid=11 x.db --json"] {
            assert_eq!(parsed(line), Ok(restore(Some(11), true)), "{line}");
        }
        assert_eq!(parsed("restore file:///r -- x.db"), Ok(restore(None, false)));
        assert_eq!(parsed("restore --help"), Ok(Arguments::Help));
    }

    #[test]
    fn sixteen_digits_are_hex_and_fewer_are_decimal() {
        assert_eq!(txid("0000000000000010"), Ok(Txid::new(16).unwrap()));
        assert_eq!(txid("10"), Ok(Txid::new(10).unwrap()));
        for text in ["", "0", "b", "-1", "+1", "0x1", "00000000000000010", "99999999999999999999"] {
            assert!(txid(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, reason) in [
            ("", "no command given"),
            ("follow x", "unknown command \"follow\""),
            ("restore file:///r", "restore takes URL PATH, found 1 words"),
            ("list a b", "list takes URL, found 2 words"),
            ("doctor", "doctor takes URL, found 0 words"),
            ("doctor --txid 1 a", "doctor takes no --txid"),
            ("list --all a", "unknown option \"--all\""),
            ("list --json=yes a", "unknown option \"--json=yes\""),
            ("restore a b --txid", "\"\" is no txid"),
        ] {
            let Err(Usage(found)) = parsed(line) else { panic!("{line}") };
            assert!(found.contains(reason), "{line}: {found}");
        }
    }
}
