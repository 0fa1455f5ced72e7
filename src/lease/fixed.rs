//! A lease that nobody competes for: one node is the primary, for good, because a person said so.
//!
//! Nothing stands in the replica and nothing ends. Two nodes that are both told to be the primary are told apart by the first
//! name that both create, and one of them is fenced.

use super::machine::Permit;
use super::terms::Until;
use crate::error::{Error, Result};
use crate::types::Epoch;

/// What was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fixed {
    /// This node.
    Here,
    /// Another one: its name, or where it is reached.
    Elsewhere(String),
}

impl Fixed {
    /// # Errors
    /// `Busy` with who the primary is.
    pub fn permit(&self) -> Result<Permit> {
        match self {
            Fixed::Here => Ok(Permit { epoch: Epoch::FIRST, until: Until::NEVER }),
            Fixed::Elsewhere(primary) => {
                Err(Error::busy(format!("the primary is {primary}, always: this node only reads")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::lease::Now;
    use crate::types::Timestamp;

    #[test]
    fn the_primary_may_always_write_and_the_others_learn_who_it_is() {
        let permit = Fixed::Here.permit().unwrap();
        let late = Now { wall: Timestamp::parse("9999-12-31T23:59:59Z").unwrap(), steady_ms: u64::MAX - 1 };
        assert!(permit.allows(late));
        let error = Fixed::Elsewhere("web-1".into()).permit().unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains("web-1"), "{error}");
    }
}
