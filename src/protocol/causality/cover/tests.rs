//! A cover names what the client has seen, no survivor beyond that, and stays small.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::super::tests::{actor, dot, histories, put, value};
use super::super::{Context, Dot, Record, Summary};
use super::{
    MAX_CONTEXT_BYTES, token_cover_after_write, token_cover_for_get, token_cover_for_version,
};
use crate::types::HlcStamp;

/// A client that chains its writes: each with the token of the one before.
#[derive(Clone, Default)]
struct Client {
    token: Context,
}

impl Client {
    fn write(&mut self, record: &mut Record, by: u64, text: &str) -> Dot {
        let replaced = record.dots_in(&self.token);
        let own = record.update(&self.token, value(text), HlcStamp::default(), actor(by), 0);
        self.token = token_cover_after_write(record, &self.token, &replaced, own);
        own
    }
}

fn sync(replicas: &mut [Record]) {
    for from in 0..replicas.len() {
        let from = replicas[from].clone();
        for into in replicas.iter_mut() {
            assert_eq!(into.merge(&from).alarms, []);
        }
    }
}

proptest! {
    #[test]
    fn a_cover_after_a_write_names_no_survivor_unseen(
        records in histories(2), token_of in 0usize..2, others in vec(any::<bool>(), 3),
    ) {
        let (mut record, stale) = (records[0].clone(), &records[token_of]);
        let seen: Context = stale.dots().zip(others.iter().cycle())
            .filter_map(|(dot, chosen)| chosen.then_some(dot)).collect();
        let replaced = record.dots_in(&seen);
        let own = record.update(&seen, value("own"), HlcStamp::default(), actor(9), 0);
        let _ = record.merge(&records[1]);
        let cover = token_cover_after_write(&record, &seen, &replaced, own);
        assert!(cover.contains(own) && cover.covers(&seen));
        let unseen: Vec<Dot> =
            record.dots().filter(|dot| *dot != own && !seen.contains(*dot)).collect();
        assert!(unseen.iter().all(|dot| !cover.contains(*dot)));
        let mut whole = cover.clone();
        whole.extend(unseen);
        assert_eq!(&whole, record.context(), "all that is superseded is named");
        assert_eq!(cover, token_cover_after_write(&Summary::from(&record), &seen, &replaced, own));
    }

    #[test]
    fn a_cover_of_one_version_hides_all_but_that_one_and_its_twins(records in histories(3)) {
        let record = &records[0];
        for shown in record.versions() {
            let cover = token_cover_for_version(record, shown.dot()).expect("it survives");
            for version in record.versions() {
                let is_shown = version.content() == shown.content();
                assert_eq!(cover.contains(version.dot()), is_shown);
            }
        }
        assert_eq!(token_cover_for_version(record, dot(77, 1)), None);
        assert_eq!(&token_cover_for_get(record), record.context());
    }

    /// P6, for writes through any replicas that have or have not heard of one another.
    #[test]
    fn a_chain_of_writes_ends_in_its_last_value(steps in vec((0usize..3, any::<bool>()), 1..40)) {
        let mut replicas = vec![Record::absent(); 3];
        let mut client = Client::default();
        let mut last = None;
        for (at, syncs) in steps {
            last = Some(client.write(&mut replicas[at], at as u64, "value"));
            if syncs {
                sync(&mut replicas);
            }
        }
        sync(&mut replicas);
        assert!(replicas.iter().all(|record| record.dots().eq(last)));
    }

    /// P6, for two clients that never read, through any replicas.
    #[test]
    fn two_chains_end_in_exactly_two_siblings(
        steps in vec((any::<bool>(), 0usize..3, any::<bool>()), 2..100),
    ) {
        let mut replicas = vec![Record::absent(); 3];
        let mut clients = [Client::default(), Client::default()];
        let mut last = [None, None];
        for (who, at, syncs) in steps {
            let who = usize::from(who);
            last[who] = Some(clients[who].write(&mut replicas[at], at as u64, "value"));
            if syncs {
                sync(&mut replicas);
            }
        }
        sync(&mut replicas);
        let mut expected: Vec<Dot> = last.into_iter().flatten().collect();
        expected.sort();
        assert!(replicas.iter().all(|record| record.dots().eq(expected.iter().copied())));
    }
}

#[test]
fn a_hundred_interleaved_writes_from_two_stale_contexts_end_in_two_siblings() {
    let mut record = Record::absent();
    put(&mut record, &Context::new(), 1, "first", 0);
    let stale = token_cover_for_get(&record);
    let mut clients = [Client { token: stale.clone() }, Client { token: stale }];
    for turn in 0..100 {
        clients[turn % 2].write(&mut record, 1, &format!("write {turn}"));
    }
    assert_eq!(record.versions().len(), 2);
}

#[test]
fn tokens_of_five_hundred_interleaved_writes_stay_at_a_few_entries() {
    let mut replicas = vec![Record::absent(); 3];
    let mut clients = [Client::default(), Client::default()];
    for turn in 0..500 {
        // Both move from replica to replica, at different paces, and replicas hear of each other.
        let at = (turn / 2 + turn % 2 * (turn / 7)) % 3;
        clients[turn % 2].write(&mut replicas[at], at as u64, &format!("write {turn}"));
        sync(&mut replicas);
        assert_eq!(replicas[0].versions().len(), 2.min(turn + 1));
        assert!(clients[turn % 2].token.entries() <= 4, "{:?}", clients[turn % 2].token);
    }
}

#[test]
fn a_token_stays_small_beside_a_sibling_that_is_never_read() {
    let mut record = Record::absent();
    let mut clients = [Client::default(), Client::default(), Client::default()];
    clients[2].write(&mut record, 1, "never written again");
    for turn in 0..500 {
        clients[turn % 2].write(&mut record, 1, &format!("write {turn}"));
        assert!(clients[turn % 2].token.entries() <= 3, "{:?}", clients[turn % 2].token);
    }
    assert_eq!(record.versions().len(), 3);
}

/// 1,000 unclean restarts: more actors than a token has room for.
#[test]
fn where_a_token_has_no_room_for_all_it_keeps_what_survives() {
    let mut record = Record::absent();
    for retired in 1..=1_000 {
        let seen = record.context().clone();
        put(&mut record, &seen, retired << 50, "value", retired);
    }
    put(&mut record, &Context::new(), 500 << 50, "sibling", 0);
    let seen = token_cover_for_get(&record);
    assert!(seen.encoded_len() <= MAX_CONTEXT_BYTES && seen.entries() > 500);
    let own = put(&mut record, &seen, 1, "after reading", 2_000);
    assert_eq!(record.dots().collect::<Vec<_>>(), [own]);
    let cover = token_cover_after_write(&record, &seen, &[], own);
    assert!(cover.encoded_len() <= MAX_CONTEXT_BYTES && cover.contains(own));
}
