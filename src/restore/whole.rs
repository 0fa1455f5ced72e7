//! The chain read by one thread, every file to its last byte: slow, and the judge of what the quick way ([`super::crew`])
//! does not trust.
//!
//! Every file checksum is verified, neighbours must link, and the checksum of the whole database must be what the last
//! file says, where it says one. So an error here names the file that is damaged, or that belongs to another history.

use super::pages::{Output, Pages};
use super::{Attempt, Options, Restored, Setback, begin};
use crate::catalog::Chain;
use crate::error::{Error, Kind};
use crate::fs::durable::Temp;
use crate::ltx::merge::check_link;
use crate::ltx::{Decoder, Header};
use crate::replica::{Client, ReadSeek, open_decoder};
#[cfg(test)]
use crate::testing::mutation::{self, Mutation};
use crate::types::{Checksum, FileInfo};

/// Applies the chain from its newest file back, so that each page is written once.
pub fn restore(client: &dyn Client, chain: &Chain, temp: &Temp, options: &Options<'_>) -> Attempt<Restored> {
    let output = Output::new(temp);
    let mut newer: Option<(FileInfo, Header)> = None;
    let mut state: Option<(Pages, Restored)> = None;
    let (mut done, all) = (0, chain.steps.iter().map(|step| step.size).sum());
    for step in chain.steps.iter().rev() {
        let mut decoder = open(client, step)?;
        let header = *decoder.header();
        check_history(client, chain, step, newer, &mut decoder)?;
        let (pages, restored) = match &mut state {
            Some(state) => state,
            None => {
                let restored = begin(chain, &header)?;
                let pages = Pages::new(&output, &header, options.page_checksums)?;
                state.insert((pages, restored))
            }
        };
        if header.page_size == restored.page_size {
            pages.take(&mut decoder)?;
        } else if pages.is_complete() {
            decoder.verify_rest()?;
        } else {
            return Err(Setback::Failed(Error::corrupt(format!(
                "{} has page size {} and the files after it {}, but not every page is in those",
                decoder.name(),
                header.page_size,
                restored.page_size
            ))));
        }
        if newer.is_none() {
            restored.proven = decoder.post().is_some();
            restored.position.checksum = decoder.post().unwrap_or(Checksum::EMPTY);
        }
        done += step.size;
        options.tell(done, all);
        newer = Some((*step, header));
    }
    let (pages, mut restored) = state.expect("BUG: a chain has a step");
    let (checksum, page_checksums) = pages.finish()?;
    #[cfg(test)]
    if mutation::is(Mutation::UnprovenRestore) {
        restored.position.checksum = checksum;
    }
    if restored.proven && checksum != restored.position.checksum {
        return Err(Setback::Failed(Error::corrupt(format!(
            "the files up to txid {} give a database with checksum {checksum}, but the last of them says {}",
            restored.position.txid, restored.position.checksum
        ))));
    }
    restored.position.checksum = checksum;
    restored.page_checksums = page_checksums;
    Ok(restored)
}

fn open(client: &dyn Client, file: &FileInfo) -> Attempt<Decoder<Box<dyn ReadSeek>>> {
    open_decoder(client, file).map_err(|error| match error.kind() {
        Kind::NotFound | Kind::Conflict => Setback::Changed(error),
        _ => Setback::Failed(error),
    })
}

/// Checks that `step` links to what follows it: the next step, and the next level-0 file of a level-0 step. A
/// level-0 file that does not is a leftover, but only if both are undamaged.
fn check_history(
    client: &dyn Client,
    chain: &Chain,
    step: &FileInfo,
    newer: Option<(FileInfo, Header)>,
    decoder: &mut Decoder<Box<dyn ReadSeek>>,
) -> Attempt<()> {
    let header = *decoder.header();
    if let Some((next, next_header)) = newer
        && let Err(error) = check_link(&header, &next_header)
    {
        decoder.verify_rest()?;
        return Err(match next.level == step.level && step.level.get() == 0 {
            true => Setback::Leftover(Box::new(*step), error),
            false => Setback::Failed(error),
        });
    }
    for link in chain.links.iter().filter(|link| link.step == *step) {
        let mut next = match open(client, &link.next) {
            Err(Setback::Failed(error)) if error.kind() == Kind::Corrupt => continue,
            other => other?,
        };
        if let Err(error) = check_link(&header, next.header())
            && next.verify_rest().is_ok()
        {
            decoder.verify_rest()?;
            return Err(Setback::Leftover(Box::new(*step), error));
        }
    }
    Ok(())
}
