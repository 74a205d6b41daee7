package keyring

const remedy = "run the program in a session that is logged on, where the Credential Manager works"
