// SPDX-License-Identifier: Apache-2.0
//! A guest's connection to the daemon.
#![forbid(unsafe_code)]

pub mod wire;
