use proptest::prelude::*;

use super::*;

fn entry() -> impl Strategy<Value = Entry> {
    let span = || (0u64..1 << 60, 0u32..1 << 20);
    prop_oneof![
        (span(), 0u64..1 << 60).prop_map(|((first, count), seq)| Entry::Acked { first, count, seq }),
        span().prop_map(|(first, count)| Entry::Refused { first, count }),
        (0u64..1 << 60).prop_map(|end| Entry::Begun { end }),
    ]
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Sequential), Just(Order::Uniform), (0.1f64..5.0).prop_map(Order::Zipfian)]
}

fn spec() -> impl Strategy<Value = Spec> {
    let file = proptest::option::of(("[a-z/]{1,20}", any::<u64>(), any::<u32>()));
    let names = ("http://[a-z]{1,9}:[0-9]{1,4}", proptest::option::of("[0-9a-f]{1,40}"));
    let numbers = (any::<u64>(), 1u32..9999, 1u32..1024, 1u64..1 << 60, 0usize..5000, 0usize..5000);
    (numbers, order(), any::<bool>(), names, file).prop_map(
        |((seed, batch, key_bytes, key_space, min, more), order, text, (url, cluster_id), file)| Spec {
            url,
            cluster_id,
            first_seq: seed.rotate_left(7),
            seed,
            batch,
            key_bytes,
            key_space,
            order,
            sizes: Sizes { min, max: min + more },
            text,
            file: file.map(|(path, bytes, crc)| OwnFile { path, bytes, crc }),
        },
    )
}

proptest! {
    #[test]
    fn a_header_comes_back(spec in spec(), behind in prop::collection::vec(any::<u8>(), 0..20)) {
        let encoded = spec.encode().unwrap();
        let length = encoded.len();
        prop_assert_eq!(Spec::decode(&[encoded, behind].concat()).unwrap(), (spec, length));
    }

    #[test]
    fn a_group_comes_back(number in any::<u32>(), entries in prop::collection::vec(entry(), 0..40), behind in prop::collection::vec(any::<u8>(), 0..20)) {
        let encoded = encode_group(number, &entries);
        let length = encoded.len();
        prop_assert_eq!(decode_group(&[encoded, behind].concat()), Some((number, entries, length)));
    }

    #[test]
    fn damage_is_noticed(spec in spec(), entries in prop::collection::vec(entry(), 1..9), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
        let (mut header, mut group) = (spec.encode().unwrap(), encode_group(3, &entries));
        prop_assert!(Spec::decode(&header[..cut.index(header.len())]).is_err());
        prop_assert!(decode_group(&group[..cut.index(group.len())]).is_none());
        let (in_header, in_group) = (at.index(header.len()), at.index(group.len()));
        header[in_header] ^= 1 << bit;
        group[in_group] ^= 1 << bit;
        prop_assert!(Spec::decode(&header).is_err());
        prop_assert!(decode_group(&group).is_none());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Spec::decode(&bytes);
        let _ = decode_group(&bytes);
        let _ = Spec::decode(&[&MAGIC[..], &VERSION.to_le_bytes(), &bytes].concat());
        let _ = decode_group(&[&GROUP_MAGIC[..], &bytes].concat());
    }
}

/// The bytes of each version, made by another program from the drawing above.
const GOLDEN_1: &[u8] = include_bytes!("../../tests/golden/journal-1.slj");
const GOLDEN_2: &[u8] = include_bytes!("../../tests/golden/journal-2.slj");

fn golden_spec() -> Spec {
    Spec {
        url: "http://127.0.0.1:8001".to_owned(),
        cluster_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
        first_seq: 4_000_000_000,
        seed: 7,
        batch: 100,
        key_bytes: 16,
        key_space: 1_000_000,
        order: Order::Zipfian(0.99),
        sizes: Sizes { min: 50, max: 4096 },
        text: true,
        file: Some(OwnFile {
            path: "/data/flights.ndjson.gz".to_owned(),
            bytes: 123_456_789,
            crc: 0xdead_beef,
        }),
    }
}

#[test]
fn the_bytes_are_frozen() {
    let groups: [&[Entry]; 2] = [
        &[Entry::Acked { first: 0, count: 100, seq: 5_000_000_000 }, Entry::Begun { end: 300 }],
        &[Entry::Refused { first: 100, count: 100 }],
    ];
    let mut bytes = golden_spec().encode().unwrap();
    for (number, entries) in groups.iter().enumerate() {
        bytes.extend(encode_group(number as u32, entries));
    }
    assert_eq!(bytes, GOLDEN_2);
    let without_id = Spec { cluster_id: None, ..golden_spec() };
    for (golden, spec) in [(GOLDEN_1, without_id), (GOLDEN_2, golden_spec())] {
        let journal = reader::read(golden).unwrap();
        assert_eq!((journal.spec, journal.entries, journal.torn_bytes), (spec, groups.concat(), 0));
    }
}

#[test]
fn a_name_too_long_is_refused() {
    let url = Spec { url: "x".repeat(70_000), ..golden_spec() };
    let id = Spec { cluster_id: Some("x".repeat(256)), ..golden_spec() };
    assert!(url.encode().is_err() && id.encode().is_err());
}
