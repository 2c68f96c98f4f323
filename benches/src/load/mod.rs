//! Load generators and the back end that they meet.
