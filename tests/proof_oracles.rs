//! The proofs against independent implementations: what we make they accept, and what they make we accept.
//!
//! `ct-merkle` for the tree and its proofs, `tlog_tiles` for tiles, paths and checkpoints (and the tree once more),
//! `signed_note` for keys and notes.

use ct_merkle::{ConsistencyProof, InclusionProof, RootHash, mem_backed_tree::MemoryBackedTree};
use proptest::prelude::*;
use scribe_ledger::{
    proof::{
        Hash, ProofError,
        checkpoint::Checkpoint,
        consistency::{consistency_proof, verify_consistency},
        frontier::Frontier,
        hash::leaf_hash,
        inclusion::{inclusion_proof, verify_inclusion},
        key::{Signer, VerifierKey},
        leaf::Leaf,
        memory::MemoryTree,
        note::Note,
        tile::{Tile, TilePath, encode_tile, new_tiles},
        tree::{HashSource, root},
    },
    types::{Op, Seq},
};
use sha2::Sha256;
use signed_note::{StandardSigner, StandardVerifier, VerifierList};
use tlog_tiles::{HashReader, Tile as TheirTile, TileHashReader, TileReader};

type TheirTree = MemoryBackedTree<Sha256, [u8; 91]>;

fn leaf(seq: u64) -> [u8; 91] {
    let op = if seq % 7 == 3 { Op::Delete } else { Op::Put };
    Leaf::of(op, Seq(seq), 1_000 + seq, &seq.to_le_bytes(), b"value").encode()
}

fn our_tree(size: u64) -> MemoryTree {
    (0..size).map(|seq| leaf_hash(&leaf(seq))).collect()
}

fn their_tree(size: u64) -> TheirTree {
    let mut tree = TheirTree::new();
    (0..size).for_each(|seq| tree.push(leaf(seq)));
    tree
}

fn their_root(root: &Hash, size: u64) -> RootHash<Sha256> {
    RootHash::new(root.0.into(), size)
}

fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.chunks(32).map(|bytes| Hash::from_slice(bytes).unwrap()).collect()
}

fn theirs(hash: &Hash) -> tlog_tiles::Hash {
    tlog_tiles::Hash(hash.0)
}

/// Their reader of stored hashes, over our tree.
struct Stored<'a>(&'a MemoryTree);

impl HashReader for Stored<'_> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        let hash = |index: &u64| {
            let (level, n) = tlog_tiles::split_stored_hash_index(*index);
            theirs(&self.0.subtree(level, n).expect("they ask for complete subtrees only"))
        };
        Ok(indexes.iter().map(hash).collect())
    }
}

/// Their client, fed with our tiles as a server would give them out.
struct Served<'a>(&'a MemoryTree);

impl TileReader for Served<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[TheirTile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let bytes = |tile: &TheirTile| {
            let tile = Tile::new(tile.level(), tile.level_index(), tile.width() as u16).expect("a real tile");
            encode_tile(&tile.hashes(self.0).expect("a tile of the tree"))
        };
        Ok(tiles.iter().map(bytes).collect())
    }

    fn save_tiles(&self, _: &[TheirTile], _: &[Vec<u8>]) {}
}

#[test]
fn another_tree_has_the_same_roots_and_proofs() {
    let mut theirs = TheirTree::new();
    let mut frontier = Frontier::default();
    let tree = our_tree(300);
    for size in 1..=300u64 {
        theirs.push(leaf(size - 1));
        frontier.append(leaf_hash(&leaf(size - 1)));
        assert_eq!(theirs.root().as_bytes()[..], frontier.root().0, "{size} leaves");
        for index in [0, size / 3, size - 1] {
            let proof = inclusion_proof(&tree, index, size).unwrap();
            assert_eq!(hashes(theirs.prove_inclusion(index as usize).as_bytes()), proof, "{index} of {size}");
        }
        for from in [1, size.div_ceil(3), size - 1].into_iter().filter(|from| (1..size).contains(from)) {
            let proof = consistency_proof(&tree, from, size).unwrap();
            let other = theirs.prove_consistency((size - from) as usize);
            assert_eq!(hashes(other.as_bytes()), proof, "{from} to {size}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn proofs_are_accepted_both_ways(size in 2u64..2_500, at in any::<prop::sample::Index>()) {
        let (ours, theirs_tree) = (our_tree(size), their_tree(size));
        let to_root = root(&ours, size).unwrap();
        let index = at.index(size as usize) as u64;

        let proof = inclusion_proof(&ours, index, size).unwrap();
        let bytes = InclusionProof::try_from_bytes(encode_tile(&proof)).unwrap();
        prop_assert!(their_root(&to_root, size).verify_inclusion(&leaf(index), index, &bytes).is_ok());
        prop_assert!(tlog_tiles::check_record(
            &proof.iter().map(theirs).collect(), size, theirs(&to_root), index, theirs(&leaf_hash(&leaf(index))),
        ).is_ok());
        let proof = hashes(theirs_tree.prove_inclusion(index as usize).as_bytes());
        verify_inclusion(&leaf_hash(&leaf(index)), index, size, &proof, &to_root).unwrap();

        let from = index.max(1);
        let from_root = root(&ours, from).unwrap();
        let proof = consistency_proof(&ours, from, size).unwrap();
        if from < size {
            let bytes = ConsistencyProof::try_from_bytes(encode_tile(&proof)).unwrap();
            let accepted = their_root(&to_root, size).verify_consistency(&their_root(&from_root, from), &bytes);
            prop_assert!(accepted.is_ok());
            let proof = hashes(theirs_tree.prove_consistency((size - from) as usize).as_bytes());
            verify_consistency(from, size, &from_root, &to_root, &proof).unwrap();
        }
        prop_assert!(tlog_tiles::check_tree(
            &proof.iter().map(theirs).collect(), size, theirs(&to_root), from, theirs(&from_root),
        ).is_ok());
    }

    #[test]
    fn damaged_proofs_are_judged_alike(
        size in 2u64..400, at in any::<prop::sample::Index>(), length in 0usize..12, other_size in 1u64..400,
    ) {
        let tree = our_tree(size);
        let to_root = root(&tree, size).unwrap();
        let index = at.index(size as usize) as u64;
        let mut proof = inclusion_proof(&tree, index, size).unwrap();
        proof.resize(length, Hash::default());
        for size in [size, other_size] {
            let ours = verify_inclusion(&leaf_hash(&leaf(index)), index, size, &proof, &to_root).is_ok();
            let other = tlog_tiles::check_record(
                &proof.iter().map(theirs).collect(), size, theirs(&to_root), index, theirs(&leaf_hash(&leaf(index))),
            );
            prop_assert_eq!(ours, other.is_ok());
        }
        let from = index.max(1);
        let from_root = root(&tree, from).unwrap();
        let mut proof = consistency_proof(&tree, from, size).unwrap();
        proof.resize(length, Hash::default());
        for size in [size, other_size] {
            let ours = verify_consistency(from, size, &from_root, &to_root, &proof).is_ok();
            let other = tlog_tiles::check_tree(
                &proof.iter().map(theirs).collect(), size, theirs(&to_root), from, theirs(&from_root),
            );
            prop_assert_eq!(ours, other.is_ok());
        }
    }

    #[test]
    fn paths_of_tiles_are_the_same(level in 0u8..=63, index in any::<u64>(), shift in 0u32..64, width in 1u16..=256) {
        let index = index >> shift;
        let ours = TilePath::Hashes(Tile::new(level, index, width).unwrap());
        // Theirs has the height in the path.
        prop_assert_eq!(
            TheirTile::new(8, level, index, width.into(), false).path(),
            format!("tile/8/{ours}")
        );
    }

    #[test]
    fn paths_are_judged_alike(path in "[0-9]{1,2}/(x?[0-9]{3}/){0,3}[0-9]{2,3}(\\.p/[0-9]{1,3})?") {
        let number_at_end = path.rsplit('/').next().unwrap().parse::<u32>();
        // A width of nought and levels above 63 are panics of theirs.
        let panics = path.contains(".p/") && number_at_end == Ok(0) || path[..2].parse::<u8>().is_ok_and(|n| n > 63);
        if !panics {
            let other = TheirTile::from_path(&format!("tile/8/{path}"));
            prop_assert_eq!(path.parse::<TilePath>().is_ok(), other.is_ok(), "{}", path);
        }
    }

    #[test]
    fn growth_writes_the_same_tiles(from in 0u64..100_000, growth in 0u64..70_000) {
        let ours: Vec<String> = new_tiles(from, from + growth).map(|tile| format!("tile/8/{tile}")).collect();
        let others = TheirTile::new_tiles(8, from, from + growth);
        prop_assert_eq!(ours, others.iter().map(TheirTile::path).collect::<Vec<_>>());
    }

    #[test]
    fn notes_and_keys_are_accepted_both_ways(
        name in "[a-z./]{1,20}", seed in any::<[u8; 32]>(), text in "([ -~é]{0,20}\n){1,4}",
    ) {
        let ours = Signer::from_seed(&name, &seed).unwrap();
        let vkey = ours.verifier_key().to_string();
        let note = Note::sign(text.clone(), &ours).unwrap();
        let known = VerifierList::new(vec![Box::new(StandardVerifier::new(&vkey).unwrap())]);
        let read = signed_note::Note::from_bytes(note.to_string().as_bytes()).unwrap();
        prop_assert_eq!(read.verify(&known).unwrap().0.len(), 1);
        prop_assert_eq!(read.text(), text.as_bytes());
        prop_assert_eq!(read.to_bytes(), note.to_string().into_bytes());

        let id = ours.verifier_key().id();
        let secret = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            [&[1][..], &seed].concat(),
        );
        let theirs = StandardSigner::new(&format!("PRIVATE+KEY+{name}+{id}+{secret}")).unwrap();
        let mut signed = signed_note::Note::new(text.as_bytes(), &[]).unwrap();
        signed.add_sigs(&[&theirs]).unwrap();
        let read = Note::parse(&signed.to_bytes()).unwrap();
        prop_assert_eq!(read.verify(&[vkey.parse::<VerifierKey>().unwrap()]).unwrap().len(), 1);
    }

    #[test]
    fn what_is_a_note_is_agreed(text in "[a \n]{0,6}", lines in "(— [a+]{1,2} [A-Za-z0-9]{7,9}=?\n?){0,2}") {
        let note = format!("{text}\n{lines}");
        // Theirs also reads signatures without a byte behind the key id.
        let ours = Note::parse(note.as_bytes());
        if let Ok(ours) = &ours {
            prop_assert_eq!(ours.to_string(), note.clone());
            prop_assert!(signed_note::Note::from_bytes(note.as_bytes()).is_ok());
        }
    }

    #[test]
    fn checkpoints_are_the_same(
        origin in "[a-z./]{1,20}", size in 0..=i64::MAX as u64, root in any::<[u8; 32]>(),
    ) {
        let ours = Checkpoint::new(&origin, size, Hash(root)).unwrap().to_string();
        let other = tlog_tiles::Checkpoint::new(&origin, size, tlog_tiles::Hash(root), "").unwrap();
        prop_assert_eq!(ours.as_bytes(), other.to_bytes());
        prop_assert!(tlog_tiles::Checkpoint::from_bytes(ours.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_a_checkpoint_is_agreed(
        size in "[+0]?[0-9]{0,20}", cut in 40usize..46, rest in "(\n[a-z]{0,3}){0,3}\n?",
    ) {
        let root = Hash::of(b"").to_base64() + "==";
        let text = format!("log\n{size}\n{}{rest}", &root[..cut]);
        let ours = text.parse::<Checkpoint>();
        let other = tlog_tiles::Checkpoint::from_bytes(text.as_bytes());
        // Sizes beyond a signed integer are theirs alone.
        if size.parse::<u64>().map_or(true, |size| size <= i64::MAX as u64) {
            prop_assert_eq!(ours.is_ok(), other.is_ok(), "{:?}", text);
        }
    }
}

/// An existing client of the tile format walks our tiles, authenticates each, and finds every leaf.
#[test]
fn another_client_audits_our_tiles() {
    let tree = our_tree(70_000);
    for size in [1, 255, 256, 257, 1_000, 65_535, 65_536, 65_537, 70_000] {
        let root = root(&tree, size).unwrap();
        assert_eq!(tlog_tiles::tree_hash(size, &Stored(&tree)).unwrap(), theirs(&root), "{size} leaves");
        let served = Served(&tree);
        let reader = TileHashReader::new(size, theirs(&root), &served);
        for index in
            [0, 1, size / 2, size.saturating_sub(2), size - 1].into_iter().filter(|index| *index < size)
        {
            let proof = tlog_tiles::prove_record(size, index, &reader).unwrap();
            let leaf = theirs(&leaf_hash(&leaf(index)));
            tlog_tiles::check_record(&proof, size, theirs(&root), index, leaf).unwrap();
            let ours: Vec<Hash> = proof.iter().map(|hash| Hash(hash.0)).collect();
            assert_eq!(ours, inclusion_proof(&tree, index, size).unwrap(), "{index} of {size}");
        }
    }
}

#[test]
fn errors_of_proofs_become_the_crates_own() {
    use scribe_ledger::error::{Code, Error};
    let code = |error: ProofError| Error::from(error).code();
    assert_eq!(code(inclusion_proof(&our_tree(3), 3, 3).unwrap_err()), Code::Malformed);
    assert_eq!(code(Hash::from_slice(&[]).unwrap_err()), Code::Malformed);
    let zero = Hash::default();
    assert_eq!(code(verify_inclusion(&zero, 0, 1, &[], &Hash::EMPTY_ROOT).unwrap_err()), Code::Corrupt);
}
