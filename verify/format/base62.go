package format

const base62Digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// encodeBase62 writes the big-endian number src as exactly width base62
// digits, most significant first. The caller picks a width that holds it:
// 22 digits for 128 bits, 43 for 256, 6 for 32.
func encodeBase62(src []byte, width int) string {
	number := make([]byte, len(src))
	copy(number, src)
	digits := make([]byte, width)
	for i := width - 1; i >= 0; i-- {
		remainder := 0
		for j, b := range number {
			v := remainder<<8 | int(b)
			number[j] = byte(v / 62)
			remainder = v % 62
		}
		digits[i] = base62Digits[remainder]
	}
	return string(digits)
}

func isBase62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
