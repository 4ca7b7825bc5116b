//! The public contract, held against the real program.

mod common;

contract_tests!(common::node::start);
