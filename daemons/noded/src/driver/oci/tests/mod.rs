//! The oci driver with a real vmd and a real runtime. Needs root and crun or runc; without them these tests fail and
//! say so.

mod bed;
mod calls;
mod crash;
mod ends;
mod hostile;
mod life;
mod older;
