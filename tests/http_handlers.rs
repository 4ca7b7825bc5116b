//! The public contract, held against the handlers alone: when this passes and `http_api` does not, look
//! behind them.

mod common;

contract_tests!(common::fake::start);
