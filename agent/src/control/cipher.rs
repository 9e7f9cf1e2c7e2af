//! Whose code seals and opens packets.

use ring::cipher::{self, Cipher, Finding};
use tracing::warn;

use crate::args::CipherArg;

/// Chooses for the life of the process, before the first key is made.
pub(super) fn choose(wanted: CipherArg) -> Cipher {
    match wanted {
        CipherArg::AwsLc => cipher::use_aws_lc(),
        CipherArg::Auto => {
            if cipher::found() == Finding::Disagrees {
                warn!(
                    "this processor's AVX-512 computes wrong results: packets are sealed without \
                     it; if it is an emulated processor, do not let it claim AVX-512"
                );
            }
            cipher::in_use()
        }
    }
}
